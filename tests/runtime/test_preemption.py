"""SIGTERM: who has nothing to lose leaves at once, who has steps in hand saves them first; both with code 75."""

import os
import signal
import subprocess
import sys
from contextlib import closing

import jax
import numpy as np
import pytest
from checkout import ROOT
from test_checkpoint import OPTIMIZER, places, state_at, there

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.preemption import Preempted, PreemptionListener
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.loop import TrainConfig, train_loop
from magicvideo_jax.training.metrics_log import MetricsLog
from magicvideo_jax.training.step import CompiledStep, train_step

COMPILING = """
import hashlib
from magicvideo_jax.runtime.preemption import PreemptionListener
PreemptionListener().listen()
print("listening", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes inside of one call of C, as XLA's compiler is
"""


def test_who_has_nothing_to_lose_leaves_at_once_even_out_of_a_compiler():
    with subprocess.Popen(
        [sys.executable, "-c", COMPILING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert said.splitlines() == [
        "stopped by SIGTERM: there was nothing to save; the same command goes on (exit code 75)"
    ]


@pytest.fixture
def listening():
    before = signal.getsignal(signal.SIGTERM)
    preemption = PreemptionListener()
    preemption.listen()
    yield preemption
    signal.signal(signal.SIGTERM, before)
    os.close(signal.set_wakeup_fd(-1))


class Numbers:
    """Batches that are their place, and a signal before one of them."""

    def __init__(self, number: int = 0, signal_at: int | None = None):
        self.number, self.signal_at = number, signal_at

    def __next__(self):
        if self.number == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.number += 1
        return {"x": jax.device_put(np.full(4, self.number / 10, np.float32))}

    def position(self):
        return {"number": self.number}


def objective(params, batch, key, step):
    return jax.numpy.square(params["w"]["kernel"].mean() - batch["x"].mean()), {}


def run(workdir, *, steps=6, signal_at=None, preemption=None, broken=False):
    """The real loop and step on a state of one array."""

    def quadratic(params, batch, key, number):
        loss, metrics = objective(params, batch, key, number)
        return (loss * np.nan if broken else loss), metrics

    with closing(Checkpoints(workdir)) as checkpoints:
        state, batches = state_at(0), Numbers(signal_at=signal_at)
        if checkpoints.latest() is None:
            checkpoints.save_frozen(state.frozen)
        else:
            state, position = checkpoints.restore(places())
            batches.number = position["number"]

        def step(state, batch):
            return train_step(
                state, batch, objective=quadratic, optimizer=OPTIMIZER, ema_decay=0.9, seed=0
            )

        with closing(MetricsLog(workdir, first=int(state.step))) as log:
            return train_loop(
                state,
                CompiledStep(step, state),
                batches,
                config=TrainConfig(steps=steps, batch_size=4, save_every=4, log_every=1),
                experiment={},
                checkpoints=checkpoints,
                log=log,
                preview=lambda state, number: None,
                preemption=preemption or PreemptionListener(),
            )


def test_unsaved_steps_are_saved_and_the_rest_is_as_if_nothing_had_been(tmp_path, listening):
    unbroken = run(tmp_path / "unbroken")
    with pytest.raises(Preempted, match=r"SIGTERM: step 3 of 6 is saved; .*75"):
        run(tmp_path / "broken", signal_at=2, preemption=listening)
    assert there(tmp_path / "broken") == ["3"]
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "broken"), unbroken)


def test_a_signal_after_the_last_step_leaves_before_previews_and_scores(tmp_path, listening):
    with pytest.raises(Preempted, match="all steps are saved"):
        run(tmp_path, signal_at=5, preemption=listening)
    assert there(tmp_path) == ["4", "6"]
    assert int(run(tmp_path).step) == 6


def test_losses_that_are_never_finite_end_the_run(tmp_path):
    with pytest.raises(UserError, match="more than 10 steps in a row"):
        run(tmp_path, steps=20, broken=True)
