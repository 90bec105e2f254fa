"""XLA's CUDA compiler of JAX's plug-in, which needs neither a GPU nor NVIDIA's libraries.

The plug-in optimises a program and assigns its memory; then it makes machine code, for as long
again and with a program of NVIDIA's (ptxas). A plan needs no machine code: a process of its own
compiles, writes what it has optimised to a folder (`--xla_dump_to`), and is ended there.

A compiler that has no GPU cannot measure which tiles of a Triton product are best, and its first
guesses are poor: products are left to cuBLAS. Runs let XLA choose, so a run has fewer kernels than
its plan.
"""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.planning.chip import CompiledProgram, CompileJob, ProgramMemory
from magicvideo_jax.planning.gpu_target import CUDNN, GPUTarget
from magicvideo_jax.planning.lowering import lower
from magicvideo_jax.runtime.traced_gpu import tracing_for_gpu

REQUIREMENTS = "requirements-plan-cuda.txt"
_PLUGIN = "jax_cuda13_plugin"
_OLDEST_PYTHON = (3, 12)

_LOWERED = "lowered.json"
_ASSIGNED = "*gpu_after_optimizations-buffer-assignment.txt"
_OPTIMISED = "*gpu_after_optimizations.txt"
"""Written after the buffers' assignment and before machine code is made."""


@dataclass(frozen=True)
class CUDACompiler:
    """The compiler for one kind of GPU."""

    target: GPUTarget
    platform = "gpu"
    packages = (_PLUGIN, "jax_cuda13_pjrt")

    def compile(self, job: CompileJob) -> CompiledProgram:
        """Compile a program in a process of its own."""
        _check_installed(job.on.name)
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as folder:
            process = context.Process(target=_compile, args=(self.target, job, folder), daemon=True)
            before = _children_seconds()
            process.start()
            size, last = 0, -1
            try:
                # The text is written in one go: it is whole when it grows no more.
                while process.is_alive() and not 0 < size == last:
                    process.join(1)
                    size, last = sum(x.stat().st_size for x in Path(folder).glob(_OPTIMISED)), size
            finally:
                process.kill()
                process.join()
            return _read(Path(folder), _children_seconds() - before)


def _check_installed(topology: str) -> None:
    if sys.version_info < _OLDEST_PYTHON:
        found, needed = (".".join(map(str, v[:2])) for v in (sys.version_info, _OLDEST_PYTHON))
        raise UserError(
            f"--topology={topology}: JAX's CUDA compiler needs Python {needed} or later, this is "
            f"{found}: see {REQUIREMENTS}, or plan with --quick"
        )
    if importlib.util.find_spec(_PLUGIN) is None:
        raise UserError(
            f"--topology={topology}: JAX's CUDA compiler is not installed: pip install -r "
            f"{REQUIREMENTS}, or plan with --quick"
        )


def _compile(target: GPUTarget, job: CompileJob, folder: str) -> None:
    """Compile, with XLA's dumps in `folder`; the process that runs this is ended on the way."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA complains of slow compilation
    import jax

    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    machines = f"{job.on.slices}x1x{job.on.sizes[0]}"
    devices = topologies.get_topology_desc(
        platform="cuda", topology=machines, target_config=target.proto()
    ).devices
    with _tracing_with_cudnn(target.capability):
        program = lower(job, list(devices))
    facts = {"flops": program.flops, "seconds": program.clock.seconds}
    (Path(folder) / _LOWERED).write_text(json.dumps(facts))
    program.lowered.compile(
        {
            "xla_gpu_enable_triton_gemm": False,
            "xla_dump_to": folder,
            "xla_dump_hlo_as_text": True,
        }
    )


def _read(folder: Path, seconds: float) -> CompiledProgram:
    """Program that XLA wrote to a folder, after so many CPU seconds."""
    found = [next(folder.glob(name), None) for name in (_LOWERED, _OPTIMISED, _ASSIGNED)]
    if None in found:
        raise RuntimeError("XLA's compiler for CUDA ended without a program; its error is above")
    lowered, optimised, assigned = (file.read_text() for file in found if file)
    facts = json.loads(lowered)
    return CompiledProgram(
        facts["flops"],
        text=optimised,
        memory=assigned_memory(assigned),
        seconds=facts["seconds"] | {"compile": round(seconds - sum(facts["seconds"].values()), 1)},
    )


def assigned_memory(text: str) -> ProgramMemory:
    """Memory of a program from XLA's buffer assignment. An output that is an argument's memory is
    aliased; constants count as temporaries.
    """
    sizes = dict.fromkeys(("arguments", "temporaries", "outputs", "aliased"), 0)
    for size, kind in re.findall(r"^allocation \d+: size (\d+),(.*)$", text, re.MULTILINE):
        if "thread-local" in kind:  # registers of kernels
            continue
        is_argument, is_output = "parameter " in kind, "maybe-live-out" in kind
        sizes["arguments"] += int(size) * is_argument
        sizes["outputs"] += int(size) * is_output
        sizes["aliased"] += int(size) * (is_argument and is_output)
        sizes["temporaries"] += int(size) * (not is_argument and not is_output)
    return ProgramMemory(**sizes)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _tracing_with_cudnn(capability: str) -> Iterator[None]:
    """Answer what JAX asks the local GPU while it traces cuDNN's attention.

    JAX has no public way to say it: these are private functions of the pinned version.
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    def number(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    answers = {
        "check_cudnn_version": lambda: CUDNN[0] * 10_000 + CUDNN[1] * 100 + CUDNN[2],
        "check_compute_capability": lambda least: number(capability) >= number(least),
        "is_cuda_compute_capability_equal": lambda other: number(capability) == number(other),
    }
    asked = {name: getattr(cudnn, name) for name in answers}
    with tracing_for_gpu(capability):
        try:
            for name, answer in answers.items():
                setattr(cudnn, name, answer)
            yield
        finally:
            for name, function in asked.items():
                setattr(cudnn, name, function)
