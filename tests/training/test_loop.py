"""The order of the loop: what is saved is safe from what comes after it, and nothing moves to the host unasked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.runtime.preemption import PreemptionListener
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.loop import TrainConfig, train_loop
from magicvideo_jax.training.metrics_log import MetricsLog
from magicvideo_jax.training.state import TrainState

CONFIG = TrainConfig(steps=4, batch_size=1, save_every=2, preview_every=2, log_every=2)


class Batches:
    def __init__(self, batch):
        self._batch = batch

    def __next__(self):
        return self._batch

    def position(self):
        return {}


@jax.jit
def step(state: TrainState, batch):
    metrics = {
        "loss": batch.mean(),
        "is_finite": jnp.bool_(True),
        "skipped_in_a_row": jnp.int32(0),
    }
    return state._replace(step=state.step + 1), metrics


class Log(MetricsLog):
    def __init__(self, events: list):
        self._events = events

    def write(self, step, values):
        self._events.append(f"log {step}")


class Saves(Checkpoints):
    def __init__(self, events: list):
        self._events = events

    def save(self, step, state, *, position, config):
        self._events.append(f"save {step}")

    def check(self):
        pass

    wait = check


def trained(events: list, *, preview=None, batch=None) -> TrainState:
    """The events of a loop over a step that counts."""

    def shown(state, number):
        events.append(f"preview {number}")
        if preview is not None:
            preview(state)

    return train_loop(
        TrainState(jnp.int32(0), {}, {}, None, jnp.int32(0), {}),
        step,
        Batches(jnp.ones(3) if batch is None else batch),
        config=CONFIG,
        experiment={},
        checkpoints=Saves(events),
        log=Log(events),
        preview=shown,
        preemption=PreemptionListener(),
    )


def test_a_step_is_saved_before_it_is_previewed():
    events = []
    assert int(trained(events).step) == 4
    assert events == ["log 2", "save 2", "preview 2", "log 4", "save 4", "preview 4"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug")])
def test_a_preview_that_fails_is_one_line_and_not_the_end(error, capfd):
    events = []

    def fail(_):
        raise error

    assert int(trained(events, preview=fail).step) == 4
    assert "save 4" in events
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("no preview")]
    assert lines == [f"no preview of step {number}: {error}" for number in (2, 4)]


def test_a_preview_may_move_what_it_likes():
    events = []
    trained(events, preview=lambda _: jax.jit(lambda x: x + 1)(np.ones(3)))
    assert "preview 4" in events


def test_a_step_that_moves_arrays_unasked_is_refused():
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
        trained([], batch=np.ones(3))
