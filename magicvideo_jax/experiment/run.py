"""A training run from the first line it prints to the last score."""

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import merge
from magicvideo_jax.experiment.config import Experiment, TrainingStage
from magicvideo_jax.experiment.held_out import held_out_prompts
from magicvideo_jax.experiment.memory_check import check_program, step_refused_in_a_line
from magicvideo_jax.experiment.outcome import Scores
from magicvideo_jax.experiment.preview import Preview
from magicvideo_jax.experiment.report import say_costs
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.scores import evaluator_of, metrics_table
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.compilation import enable_compilation_cache
from magicvideo_jax.runtime.preemption import PreemptionListener
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.runtime.run_lock import hold_run_lock
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.curves import plot_curves
from magicvideo_jax.training.loop import train_loop
from magicvideo_jax.training.metrics_log import MetricsLog, read_lines
from magicvideo_jax.training.step import Compiled


def run(experiment: Experiment, workdir: Path, interrupt: PreemptionListener | None = None) -> None:
    """Trains (on), scores, and leaves everything in `workdir`.

    Of several hosts all compute everything, previews and scores too; what people look at is the first one's.
    Errors: `UserError`, and `Preempted` when `interrupt` asks to leave.
    """
    enable_compilation_cache()
    folder = RunFolder(workdir)
    folder.create()
    with ExitStack() as stack:
        stack.enter_context(hold_run_lock(workdir))
        shown = (
            workdir if processes.is_leader() else Path(stack.enter_context(TemporaryDirectory()))
        )
        checkpoints = stack.enter_context(closing(_checkpoints(experiment, workdir)))
        started = set_up_or_resume(experiment, folder, checkpoints)
        experiment, first = started.experiment, int(started.state.step)
        if first:
            say(f"resuming at step {first}")
        wandb_project = experiment.train.wandb_project if processes.is_leader() else ""
        log = MetricsLog(
            shown, first=first, wandb_project=wandb_project, config=to_plain(experiment)
        )
        stack.enter_context(closing(log))
        outcome = evaluator_of(experiment, started.networks, started.tokenizer)
        step = Compiled(started.step, started.state)
        with step_refused_in_a_line(experiment, started.mesh):
            program = step.program(started.state, started.loader.shapes())
        check_program(program, experiment, started.mesh)
        say_costs(started, program, workdir)
        state = train_loop(
            started.state,
            step,
            started.loader,
            config=experiment.train,
            experiment=to_plain(experiment),
            checkpoints=checkpoints,
            log=log,
            preview=Preview(
                outcome,
                shown / folder.previews.name,
                fps=float(held_out_prompts(experiment, 1)[0].fps),
            ),
            interrupt=interrupt or PreemptionListener(),
        )
        plot_curves(read_lines(shown / "metrics.jsonl"), shown / "curves.png")
        scores = outcome.metrics(merge(state.ema, state.frozen))
        if experiment.stage is TrainingStage.VAE:
            _write_scaling(scores, experiment, folder)
        write_json(shown / folder.metrics.name, scores)
    if processes.is_leader():
        for line in metrics_table(scores):
            print(line)


def _checkpoints(experiment: Experiment, workdir: Path) -> Checkpoints:
    return Checkpoints(
        workdir, keep_last=experiment.train.keep_last, keep_every=experiment.train.keep_every
    )


def _write_scaling(scores: Scores, experiment: Experiment, folder: RunFolder) -> None:
    """Latents of a new VAE are to have variance 1."""
    deviation = scores["latent_std"]
    assert isinstance(deviation, float)
    vae = replace(experiment.model.vae, scaling=1 / deviation)
    folder.write_config(replace(experiment, model=replace(experiment.model, vae=vae)))
