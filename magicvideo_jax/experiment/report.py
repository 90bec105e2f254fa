"""What a run says before step 0: what it will train, what it costs, where it writes."""

from pathlib import Path
from typing import Any

from magicvideo_jax.core.tree import count_parameters, size_in_bytes
from magicvideo_jax.experiment.config import TrainingStage
from magicvideo_jax.experiment.setup import RunSetup
from magicvideo_jax.models.lpips import has_lpips
from magicvideo_jax.runtime.progress import say


def say_costs(started: RunSetup, compiled: Any, workdir: Path) -> None:
    """Parameter counts, the step's memory and arithmetic as XLA compiled it, and the work folder."""
    state, experiment = started.state, started.experiment
    trained, frozen = count_parameters(state.params), count_parameters(state.frozen)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    mesh = ", ".join(f"{axis}={size}" for axis, size in started.mesh.shape.items())
    say(
        f"stage       {experiment.stage.value}, {experiment.train.steps} steps of {experiment.train.batch_size}"
    )
    say(f"parameters  {trained + frozen:,} in all, {trained:,} trained")
    say(f"from        {experiment.init_from}: {started.from_weights:,} of them")
    say(
        f"state       {size_in_bytes(state) / 2**20:,.0f} MiB over {started.mesh.size} devices ({mesh})"
    )
    if memory is not None:
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        say(
            f"memory      {total / 2**20:,.0f} MiB a device, of it {memory.temp_size_in_bytes / 2**20:,.0f} temporary"
        )
    if cost and cost.get("flops", 0) > 0:
        say(f"arithmetic  {cost['flops'] / 1e9:,.1f} GFLOP a step and device (as XLA counts)")
    if (
        experiment.stage is TrainingStage.VIDEO_VAE
        and experiment.video_vae.lpips
        and not has_lpips()
    ):
        say(
            "loss        without LPIPS: its package is missing (pip install --no-deps -r requirements-metrics.txt)"
        )
    say(
        f"writing to  {workdir}: config.json, metrics.jsonl, checkpoints/, previews/, metrics.json at the end"
    )
