"""Accelerators, arrangements of them, and compilers that make programs for them without having one."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.planning.programs import ProgramKind


@dataclass(frozen=True)
class Rates:
    """Rates of a chip, and what is known of estimates made with them."""

    flops: float
    """Peak of dense bfloat16 products, FLOP/s."""
    bandwidth: float
    """Peak of main memory, bytes/s."""
    trust: str
    """How far an estimate of time may be trusted."""


@dataclass(frozen=True)
class Chip:
    """A kind of accelerator, each of which is one JAX device."""

    name: str
    memory: int
    """Bytes of memory that a program may use."""
    example: str
    """Name of a topology."""
    compiler: "Compiler"
    axes: int = 1
    """Number of sizes in the name of a topology."""
    preallocated: float = 1.0
    """Share of the memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION is set."""
    rates: Rates | None = None
    """None where XLA's text of a program does not show its kernels."""


@dataclass(frozen=True)
class Topology:
    """One or more equal TPU slices, or machines with equal GPUs."""

    name: str
    """Name of one slice or machine, such as `v5e:16x16` or `h100:8`."""
    chip: Chip
    slices: int
    sizes: tuple[int, ...]
    """Arrangement of the chips of one slice."""

    @property
    def chips(self) -> int:
        """Total number of chips."""
        return self.slices * math.prod(self.sizes)


@dataclass(frozen=True)
class CompileJob:
    """A program to compile: which, of what experiment, for which chips."""

    what: ProgramKind
    experiment: Experiment
    on: Topology


@dataclass(frozen=True)
class ProgramMemory:
    """XLA's account of a program's memory, in bytes per chip."""

    arguments: int = 0
    temporaries: int = 0
    outputs: int = 0
    aliased: int = 0
    """Outputs that reuse the memory of arguments, because the state is donated."""
    program: int = 0
    """Size of the executable, where it is in the chip's memory."""


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled program, or why there is none."""

    flops: int
    """FLOPs of the traced program, over all chips."""
    text: str = ""
    """Optimised HLO."""
    memory: ProgramMemory = field(default_factory=ProgramMemory)
    flops_xla: float | None = None
    """FLOPs of one chip as XLA counts them, and of its Pallas kernels; None where XLA counts none."""
    out_of_memory_message: str = ""
    """XLA's message where the program does not fit."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of tracing, lowering and compiling."""


class Compiler(Protocol):
    """XLA's compiler for one kind of accelerator, which runs on CPU."""

    @property
    def platform(self) -> str:
        """JAX's name of the platform: `tpu` or `gpu`."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages beside jax and jaxlib whose versions decide on the program."""
        ...

    def compile(self, job: CompileJob) -> CompiledProgram:
        """Compile a program.

        Errors: `UserError` where the compiler is not installed or does not support the topology.
        """
        ...
