"""Tracing and lowering of programs for devices that cannot execute."""

import time
from dataclasses import dataclass, field
from typing import Any

import jax

from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.planning.chip import CompileJob
from magicvideo_jax.planning.flops import count_flops, count_kernel_flops
from magicvideo_jax.planning.programs import build_program


class Clock:
    """CPU seconds of this process, by lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = time.process_time()
        self.seconds[name], self._last = round(now - self._last, 1), now


@dataclass(frozen=True)
class LoweredProgram:
    """A program in StableHLO, which `lowered.compile()` compiles."""

    lowered: Any
    flops: int
    """FLOPs as traced, over all chips."""
    kernel_flops: int
    """FLOPs within Pallas kernels, over all chips."""
    clock: Clock = field(default_factory=Clock)


def lower(job: CompileJob, devices: list[Any]) -> LoweredProgram:
    """Trace and lower a program for devices of a topology."""
    clock = Clock()
    mesh = make_mesh(job.experiment.mesh, devices)
    platform = job.on.chip.compiler.platform
    networks = Networks(job.experiment.model, platform)
    # Pallas asks for the GPU that it makes a kernel for, in loops for that of the tracing.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = build_program(job.what, job.experiment, networks, mesh).trace()
    clock.lap("trace")
    flops = count_flops(traced.jaxpr)
    kernel_flops = count_kernel_flops(traced.jaxpr, platform)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = traced.lower()
    clock.lap("lower")
    return LoweredProgram(lowered, flops, kernel_flops, clock)
