"""Plans as text: one plan in full, or a table of plans."""

import math
from collections.abc import Iterable, Iterator

from magicvideo_jax.planning.program_plan import Costs, ProgramPlan
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.roofline import (
    LAUNCH,
    OperationCosts,
    estimated_seconds,
    total_costs,
)
from magicvideo_jax.planning.topology import CHIPS

MIB, GIB = 2**20, 2**30
_NAME = 100
"""Characters of the name of an operation; XLA joins those of many into one."""


def plan_lines(plan: ProgramPlan) -> Iterator[str]:
    """Yield the lines of one plan in full."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    together = "examples a step" if plan.what is ProgramKind.STEP else "clips together"
    yield f"{plan.chips} chips of {_slices(plan)} ({mesh}), {plan.batch_size} {together}"
    yield f"{'an example' if plan.what is ProgramKind.STEP else 'a clip':<13}" + ", ".join(
        f"{name} {described}" for name, described in plan.inputs.items()
    )
    yield ""
    yield "MiB a chip"
    for name, size in plan.parts.items():
        yield f"  {name:<14}{size / MIB:12,.1f}"
    yield f"  {'at least':<14}{plan.least / MIB:12,.1f}  before activations"
    if plan.costs is None:
        yield f"  {'memory':<14}{plan.memory / MIB:12,.1f}  {verdict(plan)}"
    if plan.exchanges:
        yield ""
        yield from _exchange_lines(plan)
    if plan.costs is not None:
        yield ""
        yield from _cost_lines(plan, plan.costs)


def _exchange_lines(plan: ProgramPlan) -> Iterator[str]:
    """Yield what each of the devices that share a clip sends at a step, by kind of split."""
    yield f"{'a chip, a step of a clip':<26}operations   MiB sent  clips evaluated"
    for kind, one in plan.exchanges.items():
        note = (
            ""
            if one["is_possible"]
            else f"  (mesh.frames={plan.mesh['frames']} does not divide its frames)"
        )
        yield (
            f"  {'split.by=' + kind:<24}{one['operations']:10,}{one['bytes_sent'] / MIB:11,.2f}"
            f"{one['evaluated']:17.2f}{note}"
        )


def _cost_lines(plan: ProgramPlan, costs: Costs) -> Iterator[str]:
    seconds = ", ".join(f"{name} {value:,.0f}" for name, value in costs.seconds.items())
    yield f"compiled     in CPU seconds: {seconds} ({', '.join(f'{k} {v}' for k, v in costs.versions.items())})"
    if not costs.fits:
        yield verdict(plan)
        yield from (f"  {line}" for line in costs.out_of_memory_message.splitlines())
        return
    for name in ("arguments", "temporaries", "outputs", "aliased", "program"):
        yield f"  {name:<14}{getattr(costs, name) / MIB:12,.1f}"
    yield f"  {'in all':<14}{costs.total / MIB:12,.1f}"
    yield f"  {'memory':<14}{plan.memory / MIB:12,.1f}  {verdict(plan)}"
    yield ""
    yield "GFLOP                 all chips       a chip"
    for name, everywhere in (
        ("as it is written", plan.flops),
        ("as compiled", costs.flops_compiled * plan.chips),
    ):
        yield f"  {name:<17}{everywhere / 1e9:12,.1f}{everywhere / plan.chips / 1e9:13,.2f}"
    yield ""
    yield f"{'a chip':<24}operations   MiB sent"
    for kind, of_kind in costs.collectives.items():
        yield f"  {kind:<22}{of_kind['operations']:10,}{of_kind['bytes_sent'] / MIB:11,.1f}"
    yield ""
    if costs.operations:
        yield from _kernel_lines(plan, costs.operations)
        yield ""
    yield "largest arrays it makes       MiB  number"
    for one in costs.largest:
        yield f"  {one.shape:<24}{one.bytes / MIB:9,.1f}{one.number:8}  {one.operation[:_NAME]}"


def _kernel_lines(plan: ProgramPlan, operations: tuple[OperationCosts, ...]) -> Iterator[str]:
    """Yield the kernels of a program for GPUs, and an estimate of its time."""
    rates = CHIPS[plan.topology.partition(":")[0]].rates
    assert rates is not None
    yield f"{'a chip':<42}kernels        GB  TFLOP  least ms"
    for one in (*operations, total_costs(operations)):
        yield (
            f"  {one.operation:<40}{one.kernels:7,}{one.bytes / 1e9:10,.2f}"
            f"{one.flops / 1e12:7,.2f}{one.seconds * 1e3:10,.2f}"
        )
    seconds = estimated_seconds(operations)
    used = plan.flops / plan.chips / seconds / rates.flops
    yield (
        f"roofline     {seconds * 1e3:,.0f} ms with {LAUNCH * 1e6:.0f} us a kernel: {used:.1%} of "
        f"{rates.flops / 1e12:,.0f} TFLOP/s, without collectives"
    )
    yield f"trust        {rates.trust}"


def plan_table(plans: Iterable[ProgramPlan]) -> Iterator[str]:
    """Yield the lines of a table with one row per plan."""
    yield "slices        chips  data  fsdp  a chip    state   grads  compiled   memory"
    for plan in plans:
        state = plan.least - plan.parts["gradients"]
        compiled = (
            "-"
            if plan.costs is None
            else f"{plan.costs.total / GIB:.2f}"
            if plan.costs.fits
            else "too large"
        )
        yield (
            f"{_slices(plan):<14}{plan.chips:5}{plan.mesh['data']:6}{plan.mesh['fsdp']:6}"
            f"{plan.batch_size / plan.chips:8g}{state / GIB:9.2f}{plan.parts['gradients'] / GIB:8.2f}"
            f"{compiled:>10}{plan.memory / GIB:9.2f}  {verdict(plan)}"
        )


def verdict(plan: ProgramPlan) -> str:
    """Whether a plan fits into memory, in words: exactly if it was compiled, else as a bound.

    JAX takes a share of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION sets another.
    """
    if plan.fits:
        return "fits"
    if plan.costs is not None:
        if not plan.costs.fits or plan.costs.total > plan.memory:
            return "does not fit"
        share = plan.costs.total / plan.memory
        return f"fits if XLA_PYTHON_CLIENT_MEM_FRACTION is at least {math.ceil(share * 100) / 100}"
    if plan.least > plan.memory:
        return "does not fit"
    return f"{(plan.memory - plan.least) / GIB:.2f} GiB left for activations"


def _slices(plan: ProgramPlan) -> str:
    return plan.topology if plan.slices == 1 else f"{plan.slices} x {plan.topology}"
