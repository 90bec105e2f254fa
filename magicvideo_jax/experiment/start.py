"""From an experiment to something that can take a step: mesh, weights in their places, state, compiled step."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from magicvideo_jax.core import hosts
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.progress import say
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.loader import Loader
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, Experiment, Stage, check_experiment
from magicvideo_jax.experiment.initial import Initial, initial_weights
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.streams import training_stream, words
from magicvideo_jax.experiment.workfolder import WorkFolder, components_of, shapes_of, split_trained
from magicvideo_jax.parallel.batch import check_batch
from magicvideo_jax.parallel.mesh import make_mesh, replicated
from magicvideo_jax.parallel.rules import parameter_shardings
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.objectives import autoencoding, denoising, joint
from magicvideo_jax.training.optimizer import make_optimizer
from magicvideo_jax.training.state import TrainState, fresh_state
from magicvideo_jax.training.step import Objective, accumulated, train_step


@dataclass(frozen=True)
class Started:
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


def start(experiment: Experiment, folder: WorkFolder, checkpoints: Checkpoints) -> Started:
    """Builds everything, at the newest checkpoint if there is one, and writes the work folder's config.

    Errors: `UserError` for all that a user can mend.
    """
    mesh = make_mesh(experiment.mesh)
    check_batch(experiment.train.batch_size, mesh, accumulate=experiment.train.accumulate)
    resumes = checkpoints.latest() is not None
    initial = Initial() if resumes else initial_weights(experiment.init_from)
    if resumes:
        experiment = folder.continued(experiment)
    else:
        experiment = replace(experiment, model=initial.fitted(experiment.model))
        experiment = _with_tokenizer(experiment, initial, folder)
        initial = initial.without(experiment.model.fresh)
    check_experiment(experiment)
    tokenizer = None
    if experiment.stage is not Stage.VAE:
        tokenizer = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    networks = Networks(experiment.model)
    optimizer = make_optimizer(experiment.optim, experiment.train.steps)
    if resumes:
        places = _places(shapes_of(networks, experiment), experiment, optimizer, mesh)
        if places.frozen and not checkpoints.has_frozen():
            _frozen_again(experiment, networks, mesh, checkpoints)
        state, position = checkpoints.restore(places)
        from_weights = 0
    else:
        params, from_weights = _initial_params(experiment, networks, initial, mesh)
        trained, frozen = split_trained(params, experiment)
        shardings = jax.tree.map(lambda x: x.sharding, _places(params, experiment, optimizer, mesh))
        create = jax.jit(partial(fresh_state, optimizer=optimizer), out_shardings=shardings._replace(frozen={}))
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
    step = partial(
        train_step,
        objective=accumulated(make_objective(experiment, networks, tokenizer), experiment.train.accumulate),
        optimizer=optimizer,
        ema_decay=experiment.optim.ema,
        seed=experiment.seed,
    )
    return Started(
        experiment=experiment,
        mesh=mesh,
        networks=networks,
        tokenizer=tokenizer,
        loader=loader,
        state=state,
        step=step,
        from_weights=from_weights,
    )


def make_objective(experiment: Experiment, networks: Networks, tokenizer: CaptionTokenizer | None) -> Objective:
    """The objective of the stage."""
    if tokenizer is None:
        return autoencoding(networks.moments, networks.decode_unscaled, experiment.autoencoding)
    stage = partial(
        denoising,
        networks.parts(),
        experiment.model.noise,
        experiment.denoising,
        null_ids=tokenizer([""])[0],
    )
    if experiment.data.with_pictures:
        return joint(stage(), stage(as_images=True), experiment.denoising)
    return stage(as_images=experiment.stage is Stage.IMAGE)


def _with_tokenizer(experiment: Experiment, initial: Initial, folder: WorkFolder) -> Experiment:
    """Weights bring their tokenizer; a run from nothing gets the words of its captions."""
    if experiment.stage is Stage.VAE:
        return experiment
    if initial.tokenizer is not None:
        folder.copy_tokenizer(initial.tokenizer)
        hosts.wait("tokenizer")
        return experiment
    if Component.TEXT in initial.parts:
        raise UserError(
            f"config.init_from={experiment.init_from}: no tokenizer beside the weights; "
            "convert them with --tokenizer FOLDER and give the converted folder"
        )
    if hosts.leads():
        build_vocabulary(words(experiment), folder.tokenizer, length=experiment.model.text.tokens)
    hosts.wait("tokenizer")
    size = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens).vocabulary_size
    text = replace(experiment.model.text, vocabulary=size)
    return replace(experiment, model=replace(experiment.model, text=text))


def _initial_params(experiment: Experiment, networks: Networks, initial: Initial, mesh: Mesh) -> tuple[Params, int]:
    """Every network's parameters where they belong, and how many of them came with the weights."""
    params, from_weights = {}, 0
    for component in components_of(experiment.stage):
        network = networks.by_component[component]
        shardings = parameter_shardings(network.shapes, mesh)
        params[component.value], there = initial.load(component, network, shardings, seed=experiment.seed)
        from_weights += there
    return params, from_weights


def _frozen_again(experiment: Experiment, networks: Networks, mesh: Mesh, checkpoints: Checkpoints) -> None:
    """Someone removed what does not train, because it was damaged: it still is what the run began with."""
    say(f"frozen networks are not in the work folder: read from config.init_from={experiment.init_from} again")
    initial = initial_weights(experiment.init_from).without(experiment.model.fresh)
    params, _ = _initial_params(experiment, networks, initial, mesh)
    checkpoints.save_frozen(split_trained(params, experiment)[1])


def _places(params: Params, experiment: Experiment, optimizer: Any, mesh: Mesh) -> TrainState:
    """The state as shapes in their places; EMA and moments are spread like the parameters they belong to."""
    trained, frozen = split_trained(params, experiment)
    shapes = jax.eval_shape(partial(fresh_state, optimizer=optimizer), trained)._replace(frozen=frozen)
    by_path = {
        tuple(f"{component}.{path}".split(".")): sharding
        for component, tree in params.items()
        for path, sharding in flatten(parameter_shardings(tree, mesh)).items()
    }

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_path.get(names) or replicated(mesh))

    return jax.tree_util.tree_map_with_path(place, shapes)
