"""A training run, from its first printed line to its final metrics."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import count_parameters, size_in_bytes
from magicvideo_jax.evaluation.metrics import Scores, metrics_table
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.held_out import HeldOut, open_held_out
from magicvideo_jax.experiment.memory_check import check_program, step_out_of_memory_in_one_line
from magicvideo_jax.experiment.networks import model_params
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import RunSetup, set_up_or_resume
from magicvideo_jax.experiment.stages.registry import check_stage, stage_of
from magicvideo_jax.experiment.stages.stage import Evaluator
from magicvideo_jax.media.clip_files import save_video
from magicvideo_jax.media.contact_sheet import contact_sheet, moving_sheet, save_sheet
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.compilation import enable_compilation_cache
from magicvideo_jax.runtime.preemption import PreemptionListener
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.runtime.run_lock import hold_run_lock
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.loop import train_loop
from magicvideo_jax.training.metrics_log import MetricsLog
from magicvideo_jax.training.state import TrainState
from magicvideo_jax.training.step import CompiledStep


def run(
    experiment: Experiment, workdir: Path, preemption: PreemptionListener | None = None
) -> None:
    """Train (on), evaluate, and leave everything in `workdir`.

    With several processes all of them compute everything, previews and metrics too; the leader writes what people look
    at. Errors: `UserError`; `Preempted` when `preemption` asks to leave.
    """
    enable_compilation_cache()
    check_stage(experiment)
    folder = RunFolder(workdir)
    folder.create()
    with ExitStack() as stack:
        stack.enter_context(hold_run_lock(workdir))
        keep_last, keep_every = experiment.train.keep_last, experiment.train.keep_every
        checkpoints = stack.enter_context(
            closing(Checkpoints(workdir, keep_last=keep_last, keep_every=keep_every))
        )
        setup = set_up_or_resume(experiment, folder, checkpoints)
        experiment, first = setup.experiment, int(setup.state.step)
        if first:
            say(f"resuming at step {first}")

        # Followers write what people look at to a folder that nobody looks at.
        visible = stack.enter_context(_leaders_folder(workdir))
        log = stack.enter_context(closing(_metrics_log(experiment, visible, first)))
        held_out = open_held_out(experiment, stage_of(experiment).held_out_frames(experiment))
        evaluator = _evaluator(experiment, setup, held_out)
        step = CompiledStep(setup.abstract.step, setup.state)
        with step_out_of_memory_in_one_line(setup.abstract):
            program = step.program(setup.state, setup.loader.shapes())
        check_program(program, setup.abstract)
        _print_summary(setup, program, workdir)

        preview = None
        if evaluator is not None and held_out is not None:
            preview = Preview(
                evaluator, experiment, visible / folder.previews.name, fps=held_out.fps
            )
        state = train_loop(
            setup.state,
            step,
            setup.loader,
            config=experiment.train,
            experiment=to_plain(experiment),
            checkpoints=checkpoints,
            log=log,
            preview=preview,
            preemption=preemption or PreemptionListener(),
        )
        scores: Scores = {}
        if evaluator is not None:
            params = model_params(state.ema, state.frozen, experiment)
            scores = evaluator.metrics(params)
            finished = stage_of(experiment).finished(experiment, scores)
            if finished != experiment:
                folder.write_config(finished)
        if processes.is_leader():
            for line in metrics_table(scores):
                print(line)
        write_json(visible / folder.metrics.name, scores)


class Preview:
    """Writes held-out examples of a state to `WORKDIR/previews`, as a clip and as a contact sheet."""

    def __init__(self, evaluator: Evaluator, experiment: Experiment, folder: Path, *, fps: float):
        self._evaluator, self._experiment = evaluator, experiment
        self._folder, self._fps = folder, fps

    def __call__(self, state: TrainState, step: int) -> None:
        params = model_params(state.ema, state.frozen, self._experiment)
        rows = self._evaluator.preview(params)
        captions, clips = zip(*rows, strict=True)
        name = f"step_{step:06d}"
        try:
            save_sheet(contact_sheet(clips, captions), self._folder / f"{name}.png")
            if len(clips[0]) > 1:
                moving = moving_sheet(clips, captions)
                save_video(moving, self._folder / f"{name}.mp4", fps=self._fps)
        except (OSError, UserError) as error:  # a full disk, for example
            say(f"no preview of step {step}: {error}")


def _evaluator(
    experiment: Experiment, setup: RunSetup, held_out: HeldOut | None
) -> Evaluator | None:
    if held_out is None:
        return None
    stage = stage_of(experiment)
    return stage.evaluator(experiment, setup.networks, setup.tokenizer, held_out)


@contextmanager
def _leaders_folder(workdir: Path) -> Iterator[Path]:
    """`workdir` for the leader, a temporary folder for other processes."""
    if processes.is_leader():
        yield workdir
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def _metrics_log(experiment: Experiment, folder: Path, first: int) -> MetricsLog:
    project = experiment.train.wandb_project if processes.is_leader() else ""
    return MetricsLog(folder, first=first, wandb_project=project, config=to_plain(experiment))


def _print_summary(setup: RunSetup, program: Any, workdir: Path) -> None:
    """What the run trains, what a step costs as XLA compiled it, and where the run writes."""
    state, experiment, mesh = setup.state, setup.experiment, setup.abstract.mesh
    trained, frozen = count_parameters(state.params), count_parameters(state.frozen)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    train = experiment.train
    say(f"stage       {experiment.stage}, {train.steps} steps of {train.batch_size}")
    say(f"parameters  {trained + frozen:,} in all, {trained:,} trained")
    say(f"from        {experiment.init_from}: {setup.from_weights:,} of them")
    say(f"state       {size_in_bytes(state) / 2**20:,.0f} MiB over {mesh.size} devices ({axes})")
    if memory is not None:
        temporary = memory.temp_size_in_bytes
        total = memory.argument_size_in_bytes + temporary
        say(
            f"memory      {total / 2**20:,.0f} MiB a device, of it "
            f"{temporary / 2**20:,.0f} temporary"
        )
    if cost and cost.get("flops", 0) > 0:
        say(f"arithmetic  {cost['flops'] / 1e9:,.1f} GFLOP a step and device (as XLA counts)")
    for note in stage_of(experiment).notes(experiment):
        say(note)
    say(
        f"writing to  {workdir}: config.json, metrics.jsonl, checkpoints/, previews/, "
        "metrics.json at the end"
    )
