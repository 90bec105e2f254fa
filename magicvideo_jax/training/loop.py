"""The training loop. In this order for every step: leave if asked to, save, preview, next batch, step, log.

To resume, run the same command: the state and the position in the data were saved together, before the step
that was to come.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.preemption import Preempted, PreemptionListener
from magicvideo_jax.runtime.progress import Progress, say
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.metrics_log import MetricsLog, summary
from magicvideo_jax.training.state import TrainState

MOST_SKIPPED = 10


@dataclass(frozen=True)
class TrainConfig:
    """Length of a run, batches, and how often it saves, previews and logs."""

    steps: int = 1000
    batch_size: int = 16
    """Examples per step, over all devices."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other: less memory, the same step."""
    save_every: int = 500
    keep_last: int = 2
    """Newest checkpoints to keep. The one before the last is used where the last is corrupt."""
    keep_every: int = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 disables."""
    preview_every: int = 500
    log_every: int = 20
    wandb_project: str = ""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch_size", "accumulate", "save_every", "keep_last")
        at_least(1, self, "preview_every", "log_every")
        at_least(0, self, "keep_every")


@runtime_checkable
class Batches(Protocol):
    """An endless iterator whose position can be saved."""

    def __next__(self) -> Any: ...
    def position(self) -> dict[str, Any]: ...


def train_loop(
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]],
    batches: Batches,
    *,
    config: TrainConfig,
    experiment: dict[str, Any],
    checkpoints: Checkpoints,
    log: MetricsLog,
    preview: Callable[[TrainState, int], None] | None,
    preemption: PreemptionListener,
) -> TrainState:
    """Train from `state` to the last step, which is saved and previewed; returns the last state.

    A preview that fails costs one line and not the run. Errors: `Preempted` when asked to leave, with all steps saved
    (closing `checkpoints` waits for that); `UserError` for more than 10 steps in a row whose loss is not finite, and
    for a save that failed.
    """
    first = int(state.step)

    def save(number: int) -> None:
        checkpoints.save(number, state, position=batches.position(), config=experiment)

    window: list[dict[str, Any]] = []
    began, waited = time.monotonic(), 0.0
    with (
        preemption.protect_unsaved_steps(),
        jax.transfer_guard("disallow"),
        Progress(config.steps, "train", unit="step", start=first) as progress,
    ):
        for number in range(first, config.steps):
            # Leave, if asked to.
            if preemption.requested():
                if number > first:
                    save(number)
                raise Preempted(
                    f"step {number} of {config.steps} is saved"
                    if number
                    else "there was nothing to save"
                )
            checkpoints.check()

            # Save before previewing: whatever a preview runs into, this step can be resumed.
            paused = time.monotonic()
            if number % config.save_every == 0 and number > first:
                save(number)
            if number % config.preview_every == 0 and number > first:
                _show(preview, state, number)
            began += time.monotonic() - paused

            # The host runs one step ahead of the device, no more: batches would pile up, and time spent waiting for
            # data would not be seen.
            if len(window) > 1:
                jax.block_until_ready(window[-2]["loss"])
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            state, metrics = step(state, batch)
            window.append(metrics)

            # Log.
            if (number + 1) % config.log_every == 0 or number + 1 == config.steps:
                values = summary(jax.device_get(window))
                elapsed = time.monotonic() - began
                values |= {
                    "clips_per_second": len(window) * config.batch_size / elapsed,
                    "data_wait_share": waited / elapsed,
                } | _memory()
                log.write(number + 1, values)
                _check_finite(values, number)
                window, began, waited = [], time.monotonic(), 0.0
                progress.advance(0, f"loss {values.get('loss', float('nan')):.4f}")
            progress.advance()
        save(config.steps)
        checkpoints.wait()
    _show(preview, state, config.steps)
    return state


def _show(
    preview: Callable[[TrainState, int], None] | None, state: TrainState, number: int
) -> None:
    if preview is None:
        return
    try:
        with jax.transfer_guard("allow"):
            preview(state, number)
    except (
        Exception
    ) as error:  # too little memory for sampling, for example: training does not need it
        # Other processes may be waiting in a collective of the preview: then only the job's end frees them.
        if processes.process_count() > 1:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"no preview of step {number}: {reason}")


def _check_finite(values: dict[str, float], number: int) -> None:
    if values["skipped_in_a_row"] > MOST_SKIPPED:
        raise UserError(
            f"step {number}: more than {MOST_SKIPPED} steps in a row had a loss or gradient that is not finite; "
            "try a lower optim.lr, a longer optim.warmup, or model.compute=float32, and run the same command again"
        )


def _memory() -> dict[str, float]:
    """Peak memory in GiB: of this process, and of its device where the backend counts it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB; in bytes on macOS
    memory = {"host_memory_gib": peak / (2**30 if sys.platform == "darwin" else 2**20)}
    if stats := jax.local_devices()[0].memory_stats():
        memory["device_memory_gib"] = stats["peak_bytes_in_use"] / 2**30
    return memory
