"""TPU chips, and libtpu's compiler for them.

    chip   HBM a chip as sold   as XLA may use it   bfloat16    source
    v5e    16 GB                15.75 GiB           197 TFLOP/s   cloud.google.com/tpu/docs/v5e
    v5p    95 GB                95.74 GiB           459 TFLOP/s   cloud.google.com/tpu/docs/v5p
    v6e    32 GB                31.25 GiB           918 TFLOP/s   cloud.google.com/tpu/docs/v6e

The third column is the limit that libtpu's compiler names when a program is too large.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.planning.chip import Chip, CompiledProgram, CompileJob, ProgramMemory, Topology
from magicvideo_jax.planning.lowering import lower
from magicvideo_jax.runtime.compilation import out_of_memory_message

# By default the compiler searches long for the best tiles of a convolution. A third of the time
# finds tiles that it estimates at half the speed (docs/plans.md). Runs keep the default, whose
# memory may differ a little: no complete step was compiled with it.
_SHORT_SEARCH = {"xla_jf_convolution_performance_target": "0.5"}


class TPUCompiler:
    """The compiler in libtpu."""

    platform = "tpu"
    packages = ("libtpu",)

    def compile(self, job: CompileJob) -> CompiledProgram:
        """Compile a program in this process."""
        program = lower(job, _devices(job.on))
        clock = program.clock
        try:
            compiled = program.lowered.compile(_SHORT_SEARCH)
        except jax.errors.JaxRuntimeError as error:
            message = out_of_memory_message(error)
            if message is None:
                raise
            clock.lap("compile")
            return CompiledProgram(
                program.flops, out_of_memory_message=message, seconds=clock.seconds
            )
        clock.lap("compile")
        memory = compiled.memory_analysis()
        flops = float(compiled.cost_analysis().get("flops", 0))
        return CompiledProgram(
            program.flops,
            text=compiled.as_text(),
            memory=ProgramMemory(
                arguments=memory.argument_size_in_bytes,
                temporaries=memory.temp_size_in_bytes,
                outputs=memory.output_size_in_bytes,
                aliased=memory.alias_size_in_bytes,
                program=memory.generated_code_size_in_bytes,
            ),
            flops_xla=flops + program.kernel_flops / job.on.chips,
            seconds=clock.seconds,
        )


_LIBTPU = TPUCompiler()

TPUS = (
    Chip("v5e", int(15.75 * 2**30), "v5e:16x16", _LIBTPU, axes=2),
    Chip("v5p", int(95.74 * 2**30), "v5p:8x8x8", _LIBTPU, axes=3),
    Chip("v6e", int(31.25 * 2**30), "v6e:16x16", _LIBTPU, axes=2),
)


def _devices(on: Topology) -> list[Any]:
    """Devices of libtpu for a topology."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu is not installed: pip install -r requirements-plan.txt, or plan with --quick"
        )
    # The first keeps libtpu from asking the metadata server which machine this is. The second
    # allows several processes (other plans, a training run) to have libtpu open, since none of
    # these devices is used.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    more: dict[str, Any] = {"num_slices": on.slices} if on.slices > 1 else {}
    if on.chips == 1:
        more["chips_per_host_bounds"] = (1, 1, 1)  # libtpu takes four to a host otherwise
    try:
        with _quiet():
            return list(topologies.get_topology_desc(on.name, platform="tpu", **more).devices)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology={on.name}: libtpu has no such slice: {error}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard stderr, where libtpu reports that this is not a TPU machine, as expected."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
