"""Memory checks of a run: before weights are loaded, and again once the step is compiled.

They need a backend that reports its devices' memory, which CPU does not. An error names settings that would fit.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.loader import PREFETCHED_BATCHES
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run, bytes_by_part
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.parallel.mesh import abstract_mesh, batch_shards
from magicvideo_jax.runtime.compilation import out_of_memory_in_one_line
from magicvideo_jax.training.optimizer import Freeze, trains_layers

_MOST_SUGGESTIONS = 3


def memory_limit(mesh: Mesh | AbstractMesh) -> int | None:
    """The least memory of this process's devices in bytes; None where the backend does not report it."""
    if not isinstance(mesh, Mesh):
        return None
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    return min((one["bytes_limit"] for one in stats if "bytes_limit" in one), default=None)


def bytes_before_activations(run: AbstractRun) -> dict[str, int]:
    """Bytes per device by purpose while a run goes on: those of a step, and the batches that wait on the device."""
    parts = bytes_by_part(run)
    return parts | {"prefetched": PREFETCHED_BATCHES * parts["inputs"]}


def check_memory(run: AbstractRun, networks: Networks) -> None:
    """Errors: `UserError` for state, inputs and gradients that do not fit a device."""
    limit, parts = memory_limit(run.mesh), bytes_before_activations(run)
    needed = sum(parts.values())
    if limit is None or needed <= limit:
        return
    largest = ", ".join(
        f"{name} {_gib(size)}" for name, size in parts.items() if size > limit / 100
    )
    suggestions = suggest_smaller_state(run.experiment, networks, run.mesh, limit)
    raise UserError(
        f"one step needs {_gib(needed)} per device before activations ({largest}), but a device "
        f"has {_gib(limit)}: give {_first(suggestions)}"
    )


def check_program(program: Any, run: AbstractRun) -> None:
    """Errors: `UserError` for a compiled step whose temporaries do not fit beside its arguments."""
    limit, memory = memory_limit(run.mesh), program.memory_analysis()
    if limit is None or memory is None:
        return
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = kept + memory.temp_size_in_bytes
    if needed > limit:
        raise UserError(
            f"the compiled step needs {_gib(needed)} per device, {_gib(memory.temp_size_in_bytes)} "
            f"of it temporary, but a device has {_gib(limit)}: give {_first(suggest_smaller_step(run))}"
        )


def step_out_of_memory_in_one_line(run: AbstractRun) -> contextlib.AbstractContextManager[None]:
    """Context for compiling the step: the TPU compiler itself refuses programs that do not fit."""
    return out_of_memory_in_one_line(
        lambda words: f"XLA cannot fit the step ({words}): give {_first(suggest_smaller_step(run))}"
    )


def suggest_smaller_state(
    experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh, limit: int
) -> Iterator[str]:
    """Settings whose state, inputs and gradients fit `limit` bytes per device, the smallest change first."""
    # More shards.
    shards = mesh.size // mesh.shape["frames"]
    sizes = [n for n in range(1, shards + 1) if shards % n == 0 and n > mesh.shape["fsdp"]]
    wider = [
        replace(experiment, mesh=replace(experiment.mesh, data=-1, fsdp=size)) for size in sizes
    ]

    # Fewer trained parameters.
    freezes = [one for one in (Freeze.TEMPORAL, Freeze.ADAPTOR) if _may_freeze(experiment, one)]

    def with_freeze(one: Experiment, freeze: Freeze) -> Experiment:
        return replace(one, optim=replace(one.optim, freeze=freeze))

    # The first of each group that fits.
    groups = [wider, *([with_freeze(experiment, freeze)] for freeze in freezes)]
    groups += [[with_freeze(one, freeze) for one in wider] for freeze in freezes]
    for group in groups:
        for changed in group:
            smaller = abstract_run(changed, networks, abstract_mesh(changed.mesh, mesh.size))
            needed = sum(bytes_before_activations(smaller).values())
            if needed <= limit:
                yield f"{_as_arguments(experiment, changed)} ({_gib(needed)})"
                break


def suggest_smaller_step(run: AbstractRun) -> Iterator[str]:
    """Settings with which a step has fewer activations at once, the smallest change first."""
    experiment, mesh = run.experiment, run.mesh
    train, shards = experiment.train, batch_shards(mesh)
    if train.batch_size % (2 * train.accumulate * shards) == 0:
        yield f"--config.train.accumulate={2 * train.accumulate} (half the activations, same step)"
    if experiment.model.remat is not Remat.FULL:
        yield (
            "--config.model.remat=full (a third more arithmetic, same step; dots and large recompute "
            "less and keep more)"
        )
    if mesh.shape["fsdp"] < shards:
        yield f"--config.mesh.fsdp={shards} (the state sharded over all devices)"
    if train.batch_size > shards:
        yield f"--config.train.batch_size={shards} (a smaller batch)"
    if _may_freeze(experiment, Freeze.TEMPORAL):
        yield "--config.optim.freeze=temporal (trains only what a video network adds)"


def _may_freeze(experiment: Experiment, freeze: Freeze) -> bool:
    """Whether a run that trains all of its U-Net could train part of it instead."""
    model, is_whole = experiment.model, experiment.optim.freeze is Freeze.ALL
    trains_unet = Component.UNET in model.trained
    return is_whole and trains_unet and trains_layers(freeze, model.unet.temporal)


def _as_arguments(before: Experiment, after: Experiment) -> str:
    """The difference of two experiments as arguments of a command line."""
    arguments = []
    if after.mesh.fsdp != before.mesh.fsdp:
        arguments.append(f"--config.mesh.fsdp={after.mesh.fsdp}")
    if after.optim.freeze is not before.optim.freeze:
        arguments.append(f"--config.optim.freeze={after.optim.freeze.value}")
    return " ".join(arguments)


def _first(suggestions: Iterator[str]) -> str:
    first = itertools.islice(suggestions, _MOST_SUGGESTIONS)
    return "; or ".join(first) or "more devices, or smaller networks or clips"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
