"""From an experiment to something that can take a step: mesh, weights in their places, state, compiled step."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.loader import Loader
from magicvideo_jax.data.shapes import vocabulary
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Experiment, Stage
from magicvideo_jax.experiment.drawn import make_loader
from magicvideo_jax.experiment.initial import Initial, initial_weights
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.workfolder import WorkFolder, components_of, split_trained
from magicvideo_jax.parallel.batch import check_batch
from magicvideo_jax.parallel.mesh import make_mesh, replicated
from magicvideo_jax.parallel.rules import parameter_shardings
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


def start(experiment: Experiment, folder: WorkFolder) -> Started:
    """Builds everything and writes the work folder's config. Errors: `UserError` for all that a user can mend."""
    mesh = make_mesh(experiment.mesh)
    check_batch(experiment.train.batch_size, mesh, accumulate=experiment.train.accumulate)
    initial = initial_weights(experiment.init_from)
    experiment = replace(experiment, model=initial.fitted(experiment.model))
    experiment, tokenizer_files = _with_tokenizer(experiment, initial, folder)
    folder.create(experiment, tokenizer_files)
    tokenizer = None
    if experiment.stage is not Stage.VAE:
        tokenizer = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    networks = Networks(experiment.model)
    params, from_weights = _initial_params(experiment, networks, initial, mesh)
    trained, frozen = split_trained(params, experiment)
    optimizer = make_optimizer(experiment.optim, experiment.train.steps)
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
        loader=make_loader(experiment, tokenizer, mesh),
        state=_placed_state(trained, frozen, optimizer, mesh),
        step=step,
        from_weights=from_weights,
    )


def make_objective(experiment: Experiment, networks: Networks, tokenizer: CaptionTokenizer | None) -> Objective:
    """The objective of the stage."""
    if experiment.stage is Stage.VAE:
        return autoencoding(networks.moments, networks.decode_unscaled, experiment.autoencoding)
    null_ids = null_prompt(tokenizer)
    make = partial(denoising, networks.parts(), experiment.model.noise, experiment.denoising, null_ids=null_ids)
    match experiment.stage:
        case Stage.IMAGE:
            return make(as_images=True)
        case Stage.VIDEO:
            return make()
        case Stage.JOINT:
            return joint(make(), make(as_images=True), experiment.denoising)


def null_prompt(tokenizer: CaptionTokenizer | None, negative: str = "") -> np.ndarray:
    """Ids of what guidance pushes away from: the empty prompt, or a negative one."""
    assert tokenizer is not None
    return tokenizer([negative])[0]


def _with_tokenizer(experiment: Experiment, initial: Initial, folder: WorkFolder) -> tuple[Experiment, Path | None]:
    """Weights bring their tokenizer; a run from nothing gets the words of the drawn captions."""
    if experiment.stage is Stage.VAE or initial.tokenizer is not None:
        return experiment, initial.tokenizer
    build_vocabulary(vocabulary(), folder.tokenizer, length=experiment.model.text.tokens)
    size = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens).vocabulary_size
    text = replace(experiment.model.text, vocabulary=size)
    return replace(experiment, model=replace(experiment.model, text=text)), folder.tokenizer


def _initial_params(experiment: Experiment, networks: Networks, initial: Initial, mesh: Mesh) -> tuple[Params, int]:
    """Every network's parameters where they belong, and how many of them came with the weights."""
    params, from_weights = {}, 0
    for component in components_of(experiment.stage):
        network = networks.by_component[component]
        shardings = parameter_shardings(network.shapes, mesh)
        params[component.value], there = initial.load(component, network, shardings, seed=experiment.seed)
        from_weights += there
    return params, from_weights


def _placed_state(trained: Params, frozen: Params, optimizer: Any, mesh: Mesh) -> TrainState:
    """The state of step 0; EMA and moments are spread like the parameters they belong to."""

    def create(trained: Params) -> TrainState:
        return fresh_state(trained, {}, optimizer)

    shapes = jax.eval_shape(create, trained)
    by_path = {tuple(path.split(".")): leaf.sharding for path, leaf in flatten(trained).items()}

    def place(path: Any, leaf: Any) -> Any:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        return by_path.get(names) or replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(place, shapes)
    state = jax.jit(create, out_shardings=shardings)(trained)
    return state._replace(frozen=frozen)
