"""Set-up of a run up to its next step: mesh, networks, weights, state, data."""

from dataclasses import dataclass, replace
from functools import partial

import jax
from jax.sharding import Mesh

from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.loader import Loader
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.datasets import StreamInputs, caption_words, training_stream
from magicvideo_jax.experiment.memory_check import check_memory
from magicvideo_jax.experiment.networks import Networks, split_trained
from magicvideo_jax.experiment.opening.initial_weights import InitialWeights, initial_of
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run
from magicvideo_jax.experiment.stages.registry import check_fitted, check_stage, stage_of
from magicvideo_jax.parallel.batch import check_batch
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.parallel.shardings import parameter_shardings
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.lora import fresh_factors
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.state import TrainState, fresh_state


@dataclass(frozen=True)
class RunSetup:
    """A run before its next step."""

    abstract: AbstractRun
    """The experiment with the network sizes of its weights, the mesh, and the step, not compiled yet."""
    networks: Networks
    tokenizer: CaptionTokenizer | ClassNames | None
    loader: Loader
    state: TrainState
    from_weights: int
    """Number of parameters that came from `init_from`; 0 in a run that goes on."""

    @property
    def experiment(self) -> Experiment:
        return self.abstract.experiment


def set_up_or_resume(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints
) -> RunSetup:
    """Builds the run, at the newest checkpoint if there is one, and writes the run folder's config.

    Errors: `UserError` for all that a user can mend, if possible before weights are read.
    """
    # What can be refused before weights are opened.
    check_stage(experiment)
    mesh = make_mesh(experiment.mesh)
    train, frames = experiment.train, stage_of(experiment).frames(experiment)
    check_batch(train.batch_size, mesh, accumulate=train.accumulate, frames=frames)

    # Network sizes: those of the run so far, or of the weights it begins with.
    asked, done = experiment, checkpoints.latest()
    initial = InitialWeights()
    if done is not None:
        experiment = folder.continued(experiment, done=done)
    else:
        initial = initial_of(experiment, stage_of(experiment).task)
        experiment = replace(experiment, model=initial.fitted(experiment.model))
        experiment = _with_tokenizer(experiment, initial, folder)
        initial = initial.without(experiment.model.reinitialize)
    check_fitted(experiment)
    stage = stage_of(experiment)
    tokenizer = stage.class_names(experiment)
    if stage.reads_captions:
        tokenizer = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    networks = Networks(experiment.model)
    if tokenizer is not None:  # how previews are split over devices is refused now, not hours later
        frames_held_out = stage.held_out_frames(experiment)
        generator = stage.clip_generator(experiment, networks, tokenizer, frames=frames_held_out)
        generator.split(mesh=mesh)
    run = abstract_run(experiment, networks, mesh, tokenizer)
    check_memory(run, networks)

    # State and position in the data.
    position, from_weights = None, 0
    if done is not None:
        if run.state.frozen and not checkpoints.has_frozen():
            _save_frozen_again(experiment, networks, mesh, checkpoints)
        state, position = checkpoints.restore(run.state)
    else:
        state, from_weights = _initial_state(run, networks, initial)
        checkpoints.save_frozen(state.frozen)
    precompute = stage.precompute(experiment, networks)
    inputs = StreamInputs(experiment, networks, tokenizer, state.frozen, precompute)
    loader = Loader(
        training_stream(inputs, frames),
        batch_size=train.batch_size,
        mesh=mesh,
        workers=experiment.data.workers,
    )
    if position is not None:
        loader.seek(position)
    folder.write_config(experiment)
    folder.write_requested(asked)
    return RunSetup(run, networks, tokenizer, loader, state, from_weights)


def _with_tokenizer(
    experiment: Experiment, initial: InitialWeights, folder: RunFolder
) -> Experiment:
    """Puts a tokenizer into the run folder: that of the weights, or one built from the captions' words."""
    if not stage_of(experiment).reads_captions:
        return experiment
    if initial.weights.tokenizer is not None:
        folder.copy_tokenizer(initial.weights.tokenizer)
        processes.barrier("tokenizer")
        return experiment
    if Component.TEXT in initial.parts:
        raise UserError(
            f"config.init_from={experiment.init_from}: no tokenizer beside the weights; "
            "convert them with --tokenizer FOLDER and give the converted folder"
        )
    length = experiment.model.text.tokens
    if processes.is_leader():
        build_vocabulary(caption_words(experiment), folder.tokenizer, length=length)
    processes.barrier("tokenizer")
    size = CaptionTokenizer(folder.tokenizer, length=length).vocabulary_size
    text = replace(experiment.model.text, vocabulary=size)
    return replace(experiment, model=replace(experiment.model, text=text))


def _initial_state(
    run: AbstractRun, networks: Networks, initial: InitialWeights
) -> tuple[TrainState, int]:
    """Step 0, and the number of parameters that came from the weights."""
    assert isinstance(run.mesh, Mesh)
    params, from_weights = _initial_params(run.experiment, networks, initial, run.mesh)
    trained, frozen = split_trained(params, run.experiment)
    if run.experiment.optim.freeze is Freeze.LORA:
        trained = _fresh_factors(run)
    shardings = jax.tree.map(lambda x: x.sharding, run.state)._replace(frozen={})
    create = jax.jit(partial(fresh_state, optimizer=run.optimizer), out_shardings=shardings)
    return create(trained)._replace(frozen=frozen), from_weights


def _fresh_factors(run: AbstractRun) -> Params:
    """LoRA's factors, which are all that trains, sharded."""
    shapes, key = run.state.params, key_for(run.experiment.seed, 0, "init lora")
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    return jax.jit(lambda: fresh_factors(shapes, key), out_shardings=shardings)()


def _initial_params(
    experiment: Experiment, networks: Networks, initial: InitialWeights, mesh: Mesh
) -> tuple[Params, int]:
    """The sharded parameters of every network, and how many of them came from the weights."""
    params, from_weights = {}, 0
    for component in stage_of(experiment).components(experiment):
        network = networks.by_component[component]
        shardings = parameter_shardings(
            network.shapes, mesh, min_size=experiment.mesh.fsdp_min_size
        )
        params[component.value], count = initial.load(
            component, network, shardings, seed=experiment.seed
        )
        from_weights += count
    return params, from_weights


def _save_frozen_again(
    experiment: Experiment, networks: Networks, mesh: Mesh, checkpoints: Checkpoints
) -> None:
    """Frozen networks are those of `init_from` to the end; a user removes them where they were corrupted."""
    say(
        f"frozen networks are not in the run folder: reading them from "
        f"config.init_from={experiment.init_from} again"
    )
    initial = initial_of(experiment, stage_of(experiment).task).without(
        experiment.model.reinitialize
    )
    params, _ = _initial_params(experiment, networks, initial, mesh)
    checkpoints.save_frozen(split_trained(params, experiment)[1])
