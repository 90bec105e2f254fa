"""From an experiment to something that can take a step: mesh, weights in their places, state, compiled step."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.loader import Loader
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, Experiment, check_experiment
from magicvideo_jax.experiment.initial_weights import InitialWeights, initial_of
from magicvideo_jax.experiment.memory_check import check_memory
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import RunFolder, components_of, split_trained
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.experiment.streams import training_stream, words
from magicvideo_jax.parallel.batch import check_batch
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.parallel.shardings import parameter_shardings
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.state import TrainState, fresh_state


@dataclass(frozen=True)
class RunSetup:
    """A run before its first step."""

    experiment: Experiment
    """With the numbers of the networks that the weights came with."""
    mesh: Mesh
    networks: Networks
    tokenizer: CaptionTokenizer | None
    loader: Loader
    state: TrainState
    step: Any
    """The train step, not yet compiled."""
    from_weights: int
    """Parameters that came from `init_from`."""


def set_up_or_resume(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints
) -> RunSetup:
    """Builds everything, at the newest checkpoint if there is one, and writes the work folder's config.

    Errors: `UserError` for all that a user can mend.
    """
    mesh = make_mesh(experiment.mesh)
    check_batch(experiment.train.batch_size, mesh, accumulate=experiment.train.accumulate)
    resumes = checkpoints.latest() is not None
    initial = InitialWeights()
    if resumes:
        experiment = folder.continued(experiment)
    else:
        initial = initial_of(experiment)
        experiment = replace(experiment, model=initial.fitted(experiment.model))
        experiment = _with_tokenizer(experiment, initial, folder)
        initial = initial.without(experiment.model.reinitialize)
    check_experiment(experiment)
    tokenizer = None
    if experiment.stage.has_text:
        tokenizer = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    networks = Networks(experiment.model)
    planned = abstract_run(experiment, networks, mesh, tokenizer)
    check_memory(planned, networks)
    if resumes:
        if planned.state.frozen and not checkpoints.has_frozen():
            _frozen_again(experiment, networks, mesh, checkpoints)
        state, position = checkpoints.restore(planned.state)
        from_weights = 0
    else:
        params, from_weights = _initial_params(experiment, networks, initial, mesh)
        trained, frozen = split_trained(params, experiment)
        shardings = jax.tree.map(lambda x: x.sharding, planned.state)
        create = jax.jit(
            partial(fresh_state, optimizer=planned.optimizer),
            out_shardings=shardings._replace(frozen={}),
        )
        state = create(trained)._replace(frozen=frozen)
        position = None
        checkpoints.save_frozen(frozen)
    loader = Loader(
        training_stream(experiment, networks, tokenizer, state.frozen),
        batch_size=experiment.train.batch_size,
        mesh=mesh,
        workers=experiment.data.workers,
    )
    if position is not None:
        loader.seek(position)
    folder.write_config(experiment)
    return RunSetup(
        experiment=experiment,
        mesh=mesh,
        networks=networks,
        tokenizer=tokenizer,
        loader=loader,
        state=state,
        step=planned.step,
        from_weights=from_weights,
    )


def _with_tokenizer(
    experiment: Experiment, initial: InitialWeights, folder: RunFolder
) -> Experiment:
    """Weights bring their tokenizer; a run from nothing gets the words of its captions."""
    if not experiment.stage.has_text:
        return experiment
    if initial.tokenizer is not None:
        folder.copy_tokenizer(initial.tokenizer)
        processes.barrier("tokenizer")
        return experiment
    if Component.TEXT in initial.parts:
        raise UserError(
            f"config.init_from={experiment.init_from}: no tokenizer beside the weights; "
            "convert them with --tokenizer FOLDER and give the converted folder"
        )
    if processes.is_leader():
        build_vocabulary(words(experiment), folder.tokenizer, length=experiment.model.text.tokens)
    processes.barrier("tokenizer")
    size = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens).vocabulary_size
    text = replace(experiment.model.text, vocabulary=size)
    return replace(experiment, model=replace(experiment.model, text=text))


def _initial_params(
    experiment: Experiment, networks: Networks, initial: InitialWeights, mesh: Mesh
) -> tuple[Params, int]:
    """Every network's parameters where they belong, and how many of them came with the weights."""
    params, from_weights = {}, 0
    for component in components_of(experiment):
        network = networks.by_component[component]
        shardings = parameter_shardings(network.shapes, mesh)
        params[component.value], there = initial.load(
            component, network, shardings, seed=experiment.seed
        )
        from_weights += there
    return params, from_weights


def _frozen_again(
    experiment: Experiment, networks: Networks, mesh: Mesh, checkpoints: Checkpoints
) -> None:
    """Someone removed what does not train, because it was damaged: it still is what the run began with."""
    say(
        f"frozen networks are not in the work folder: read from config.init_from={experiment.init_from} again"
    )
    initial = initial_of(experiment).without(experiment.model.reinitialize)
    params, _ = _initial_params(experiment, networks, initial, mesh)
    checkpoints.save_frozen(split_trained(params, experiment)[1])
