"""A training run from the first line it prints to the last score."""

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from magicvideo_jax.core import hosts
from magicvideo_jax.core.compilation import keep_compiled
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.interrupt import Interrupt
from magicvideo_jax.core.lock import locked
from magicvideo_jax.core.progress import say
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.settings import to_plain
from magicvideo_jax.core.tree import merge
from magicvideo_jax.experiment.config import Experiment, Stage
from magicvideo_jax.experiment.decoders import Decoders, score_decoders
from magicvideo_jax.experiment.generate import Generator
from magicvideo_jax.experiment.preview import Preview
from magicvideo_jax.experiment.report import say_costs
from magicvideo_jax.experiment.room import check_program, refused_in_a_line
from magicvideo_jax.experiment.scores import Scores, score_denoiser, score_reconstructions, table
from magicvideo_jax.experiment.start import Started, start
from magicvideo_jax.experiment.workfolder import WorkFolder
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.curves import plot_curves
from magicvideo_jax.training.loop import train
from magicvideo_jax.training.metrics import MetricsLog, read_lines
from magicvideo_jax.training.step import Compiled


def run(experiment: Experiment, workdir: Path, interrupt: Interrupt | None = None) -> None:
    """Trains (on), scores, and leaves everything in `workdir`.

    Of several hosts all compute everything, previews and scores too; what people look at is the first one's.
    Errors: `UserError`, and `Preempted` when `interrupt` asks to leave.
    """
    keep_compiled()
    folder = WorkFolder(workdir)
    folder.create()
    with ExitStack() as stack:
        stack.enter_context(locked(workdir))
        shown = workdir if hosts.leads() else Path(stack.enter_context(TemporaryDirectory()))
        checkpoints = stack.enter_context(closing(_checkpoints(experiment, workdir)))
        started = start(experiment, folder, checkpoints)
        experiment, first = started.experiment, int(started.state.step)
        if first:
            say(f"resuming at step {first}")
        wandb_project = experiment.train.wandb_project if hosts.leads() else ""
        log = MetricsLog(shown, first=first, wandb_project=wandb_project, config=to_plain(experiment))
        stack.enter_context(closing(log))
        generator = None
        if started.tokenizer is not None:  # one for previews and scores: sampling takes as long to compile as training
            generator = Generator(experiment, started.networks, started.tokenizer)
        decoders = None
        if experiment.stage is Stage.VIDEO_VAE:
            decoders = Decoders(experiment, started.networks)
        step = Compiled(started.step, started.state)
        with refused_in_a_line(experiment, started.mesh):
            program = step.program(started.state, started.loader.shapes())
        check_program(program, experiment, started.mesh)
        say_costs(started, program, workdir)
        state = train(
            started.state,
            step,
            started.loader,
            config=experiment.train,
            experiment=to_plain(experiment),
            checkpoints=checkpoints,
            log=log,
            preview=Preview(started, shown / folder.previews.name, generator, decoders),
            interrupt=interrupt or Interrupt(),
        )
        plot_curves(read_lines(shown / "metrics.jsonl"), shown / "curves.png")
        scores = _final_scores(started, merge(state.ema, state.frozen), generator, decoders, folder)
        write_json(shown / folder.metrics.name, scores)
    if hosts.leads():
        for line in table(scores):
            print(line)


def _checkpoints(experiment: Experiment, workdir: Path) -> Checkpoints:
    return Checkpoints(workdir, keep_last=experiment.train.keep_last, keep_every=experiment.train.keep_every)


def _final_scores(
    started: Started, params: Params, generator: Generator | None, decoders: Decoders | None, folder: WorkFolder
) -> Scores:
    if generator is not None:
        return score_denoiser(generator, params)
    if decoders is not None:
        return score_decoders(decoders, started.experiment, params)
    scores, scaling = score_reconstructions(started.experiment, started.networks, params)
    vae = replace(started.experiment.model.vae, scaling=scaling)
    model = replace(started.experiment.model, vae=vae)
    folder.write_config(replace(started.experiment, model=model))
    return scores
