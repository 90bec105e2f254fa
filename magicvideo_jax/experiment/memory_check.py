"""Whether devices have the memory for a run, said before it is too late: before weights are loaded, and before step 0.

Of backends that say how much they have; CPU does not.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run, bytes_by_part
from magicvideo_jax.models.unet import Remat
from magicvideo_jax.parallel.mesh import abstract_mesh, batch_shards
from magicvideo_jax.runtime.compilation import out_of_memory_in_one_line
from magicvideo_jax.training.optimizer import Freeze

_MOST = 3
"""Ways out that are named."""


def memory_limit(mesh: Mesh | AbstractMesh) -> int | None:
    """Bytes that each of this host's devices may hold, if it says so."""
    stats = (
        [device.memory_stats() or {} for device in mesh.local_devices]
        if isinstance(mesh, Mesh)
        else []
    )
    return min((one["bytes_limit"] for one in stats if "bytes_limit" in one), default=None)


def check_memory(planned: AbstractRun, networks: Networks) -> None:
    """Errors: state, inputs and gradients that do not fit a device, with the ways out that would."""
    limit, parts = memory_limit(planned.mesh), bytes_by_part(planned)
    if limit is None or sum(parts.values()) <= limit:
        return
    held = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size > limit / 100)
    raise UserError(
        f"a device has {_gib(limit)} and a step holds {_gib(sum(parts.values()))} of it before activations ({held}): "
        f"give {_listed(suggest_smaller_state(planned.experiment, networks, planned.mesh, limit))}"
    )


def check_program(program: Any, experiment: Experiment, mesh: Mesh) -> None:
    """Errors: a compiled step whose temporaries do not fit beside its arguments."""
    limit, memory = memory_limit(mesh), program.memory_analysis()
    if limit is None or memory is None:
        return
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    if kept + memory.temp_size_in_bytes > limit:
        raise UserError(
            f"a device has {_gib(limit)} and the compiled step takes {_gib(kept + memory.temp_size_in_bytes)}, of it "
            f"{_gib(memory.temp_size_in_bytes)} temporary: give {_listed(suggest_smaller_step(experiment, mesh))}"
        )


def step_refused_in_a_line(
    experiment: Experiment, mesh: Mesh
) -> contextlib.AbstractContextManager[None]:
    """Around compiling: TPU's compiler refuses by itself what does not fit."""
    return out_of_memory_in_one_line(
        lambda words: (
            f"XLA refuses the step ({words}): give {_listed(suggest_smaller_step(experiment, mesh))}"
        )
    )


def suggest_smaller_state(
    experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh, limit: int
) -> Iterator[str]:
    """Settings with which what is held before activations fits, those that change least first."""
    shards = mesh.size // mesh.shape["frames"]
    shape = replace(experiment.mesh, data=-1)
    spread = [
        replace(experiment, mesh=replace(shape, fsdp=n))
        for n in range(1, shards + 1)
        if shards % n == 0
    ]
    wider = [one for one in spread if one.mesh.fsdp > mesh.shape["fsdp"]]
    frozen = [
        one for one in Freeze if one is not Freeze.ALL and experiment.optim.freeze is Freeze.ALL
    ]
    if experiment.model.unet.temporal is None or Component.UNET not in experiment.model.trained:
        frozen = []

    def with_freeze(one: Experiment, freeze: Freeze) -> Experiment:
        return replace(one, optim=replace(one.optim, freeze=freeze))

    groups = [wider, *([with_freeze(experiment, freeze)] for freeze in frozen)]
    groups += [[with_freeze(one, freeze) for one in wider] for freeze in frozen]
    for group in groups:
        for changed in group:
            size = sum(
                bytes_by_part(
                    abstract_run(changed, networks, abstract_mesh(changed.mesh, mesh.size))
                ).values()
            )
            if size <= limit:
                yield f"{_difference(experiment, changed)} ({_gib(size)})"
                break


def suggest_smaller_step(experiment: Experiment, mesh: Mesh) -> Iterator[str]:
    """Settings with which a step keeps less at once, those that change least first."""
    train, shards = experiment.train, batch_shards(mesh)
    if train.batch_size % (2 * train.accumulate * shards) == 0:
        yield f"--config.train.accumulate={2 * train.accumulate} (half as much at once, same step)"
    if experiment.model.remat is not Remat.FULL:
        yield "--config.model.remat=full (a third more arithmetic, same step)"
    if mesh.shape["fsdp"] < shards:
        yield f"--config.mesh.fsdp={shards} (the state spread over all)"
    if train.batch_size > shards:
        yield f"--config.train.batch_size={shards} (another step)"
    if experiment.optim.freeze is Freeze.ALL and experiment.model.unet.temporal is not None:
        yield "--config.optim.freeze=temporal (what a video network adds is trained, no more)"


def _difference(one: Experiment, other: Experiment) -> str:
    """As a command line says it."""
    said = []
    if other.mesh.fsdp != one.mesh.fsdp:
        said.append(f"--config.mesh.fsdp={other.mesh.fsdp}")
    if other.optim.freeze is not one.optim.freeze:
        said.append(f"--config.optim.freeze={other.optim.freeze.value}")
    return " ".join(said)


def _listed(ways: Iterator[str]) -> str:
    return (
        "; or ".join(itertools.islice(ways, _MOST)) or "more devices, or smaller networks or clips"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
