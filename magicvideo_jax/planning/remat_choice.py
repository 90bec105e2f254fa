"""The rematerialisation that recomputes least among those whose step fits a chip's memory."""

from collections.abc import Callable
from dataclasses import replace

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.planning.chip import Topology
from magicvideo_jax.planning.plan_text import MIB, verdict
from magicvideo_jax.planning.program_plan import ProgramPlan, compiled_plan
from magicvideo_jax.planning.roofline import estimated_seconds


def choose_remat(
    experiment: Experiment,
    on: Topology,
    *,
    report: Callable[[str], None],
    plan_step: Callable[[Experiment, Topology], ProgramPlan] = compiled_plan,
) -> Experiment:
    """The experiment with the first kind of rematerialisation whose step fits the memory that JAX
    takes unless it is told otherwise.

    Each kind costs a compilation, and is reported in one line.

    Errors: `UserError` where none fits; those of `compiled_plan`.
    """
    report("config.model.remat  MiB a chip  TFLOP a chip")
    for remat in Remat:
        candidate = replace(experiment, model=replace(experiment.model, remat=remat))
        plan = plan_step(candidate, on)
        report(_row(remat, plan))
        if plan.fits:
            report("")
            return candidate
    raise UserError(
        f"--remat=auto: no step fits {on.name}: give a smaller --config.train.batch_size, or "
        "--config.mesh.fsdp for several chips"
    )


def _row(remat: Remat, plan: ProgramPlan) -> str:
    costs = plan.costs
    assert costs is not None
    memory = f"{costs.total / MIB:,.0f}" if costs.fits else "more"
    row = f"  {remat.value:<17}{memory:>11}{plan.flops / plan.chips / 1e12:14,.2f}  {verdict(plan)}"
    if costs.operations:
        row += f", {estimated_seconds(costs.operations) * 1e3:,.0f} ms by roofline"
    return row
