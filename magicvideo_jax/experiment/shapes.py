"""The state, batch and step of a run as ShapeDtypeStructs with shardings: what a compiler needs, without devices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.record_examples import FromRecord
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Component, Experiment
from magicvideo_jax.experiment.datasets import CLIPS, IMAGES, learns_from_pixels, open_clips
from magicvideo_jax.experiment.networks import Networks, run_shapes, split_trained
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.stages.registry import check_fitted, stage_of
from magicvideo_jax.parallel.batch import batch_sharding, check_batch
from magicvideo_jax.parallel.mesh import replicated
from magicvideo_jax.parallel.shardings import (
    bytes_per_device,
    parameter_shardings,
    with_sharding,
)
from magicvideo_jax.training.lora import lora_objective
from magicvideo_jax.training.optimizer import Freeze, make_optimizer
from magicvideo_jax.training.state import TrainState, fresh_state
from magicvideo_jax.training.step import accumulate_gradients, train_step


@dataclass(frozen=True)
class AbstractRun:
    """A run as shapes; nothing is allocated."""

    experiment: Experiment
    mesh: Mesh | AbstractMesh
    optimizer: optax.GradientTransformation
    state: TrainState
    batch: Any
    step: Callable[..., Any]
    """`step(state, batch) -> (state, metrics)`, not compiled yet."""


def fit_to_weights(experiment: Experiment) -> Experiment:
    """The experiment with the network sizes of the weights in `init_from`, checked."""
    if experiment.init_from:
        initial = initial_of(experiment, stage_of(experiment).task)
        experiment = replace(experiment, model=initial.fitted(experiment.model))
    check_fitted(experiment)
    return experiment


def abstract_run(
    experiment: Experiment,
    networks: Networks,
    mesh: Mesh | AbstractMesh,
    tokenize: Tokenize | None = None,
) -> AbstractRun:
    """The run of an experiment from `fit_to_weights`. Without `tokenize` the empty prompt has arbitrary ids.

    Errors: `UserError` for a batch or frames that the mesh does not divide.
    """
    stage = stage_of(experiment)
    train, components = experiment.train, stage.components(experiment)
    frames = stage.frames(experiment)
    check_batch(train.batch_size, mesh, accumulate=train.accumulate, frames=frames)
    optimizer = make_optimizer(
        experiment.optim,
        train.steps,
        with_discriminator=Component.DISCRIMINATOR in components,
        with_statistics=Component.LATENT_FLOW in experiment.model.trained,
    )
    tokenize = tokenize or arbitrary_ids(experiment.model.text.tokens)
    objective = stage.objective(experiment, networks, tokenize)
    if experiment.optim.freeze is Freeze.LORA:
        objective = lora_objective(objective, experiment.optim.lora)
    step = partial(
        train_step,
        objective=accumulate_gradients(objective, train.accumulate),
        optimizer=optimizer,
        ema_decay=experiment.optim.ema_decay,
        seed=experiment.seed,
    )
    state = state_shapes(run_shapes(networks, components, experiment), experiment, optimizer, mesh)
    return AbstractRun(
        experiment, mesh, optimizer, state, batch_shapes(experiment, networks, mesh), step
    )


def arbitrary_ids(tokens: int) -> Tokenize:
    """A stand-in for a tokenizer that is not at hand: ids of the right shape."""
    return lambda prompts: np.zeros((len(prompts), tokens), np.int32)


def state_shapes(
    params: Params,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
) -> TrainState:
    """The state as shapes with shardings; EMA and moments are sharded like the parameters they belong to."""
    trained, frozen = split_trained(params, experiment)
    shapes = jax.eval_shape(partial(fresh_state, optimizer=optimizer), trained)
    shardings = partial(parameter_shardings, mesh=mesh, min_size=experiment.mesh.fsdp_min_size)
    sharding_of = {
        tuple(f"{component}.{path}".split(".")): sharding
        for component, tree in params.items()
        for path, sharding in flatten(shardings(tree)).items()
    }

    def shard(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        # `optax.partition` puts the names of its groups in front of a parameter's path.
        paths = (names[start:] for start in range(len(names)))
        found = (sharding_of[path] for path in paths if path in sharding_of)
        return with_sharding(leaf, next(found, replicated(mesh)))

    return jax.tree_util.tree_map_with_path(shard, shapes._replace(frozen=frozen))


def batch_shapes(experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh) -> Any:
    """A batch of the training stream. Data sets that are not at hand count as `prepare` writes them: latents, or pixels
    for stages that learn from these, and no text states."""

    def shard(x: Any) -> jax.ShapeDtypeStruct:
        shape = (experiment.train.batch_size, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=batch_sharding(mesh, shape))

    frames = stage_of(experiment).frames(experiment)
    clips = _example(CLIPS, frames, experiment, networks)
    if not experiment.data.joint_images:
        return jax.tree.map(shard, clips)
    images = _example(IMAGES, 1, experiment, networks)
    return jax.tree.map(shard, {"video": clips, "image": images})


def bytes_by_part(run: AbstractRun) -> dict[str, int]:
    """Bytes per device by purpose, before activations.

    Gradients are counted whole: clipping by their norm needs all of them at once.
    """
    state = run.state
    parts = {
        "parameters": state.params,
        "average": state.ema,
        "moments": state.opt_state,
        "frozen": state.frozen,
        "inputs": run.batch,
        "gradients": state.params,
    }
    return {name: bytes_per_device(part) for name, part in parts.items()}


def _example(field: str, frames: int, experiment: Experiment, networks: Networks) -> dict[str, Any]:
    """An example of a field's first data set."""
    data, text, stage = experiment.data, experiment.model.text, stage_of(experiment)
    precompute = stage.precompute(experiment, networks)
    source = getattr(data, field)[0]
    is_drawn = source.path == DRAWN
    is_here = not is_drawn and Path(source.path).expanduser().is_dir()
    record = open_clips(source, frames, argument=f"config.data.{field}")[0] if is_here else {}

    arrays: dict[str, Any]
    if is_here:
        prepare = FromRecord(frames, experiment.model.vae.scaling)
        arrays = dict(prepare(record, np.random.default_rng(0)))
    elif (is_drawn or learns_from_pixels(experiment)) and not data.precompute_examples:
        arrays = {"pixels": np.zeros((frames, data.size, data.size, 3), np.uint8)}
    elif precompute is not None:
        pixels = np.zeros((1, frames, data.size, data.size, 3), np.uint8)
        params = networks.shapes(stage.components(experiment))
        encoded = jax.eval_shape(precompute, params, pixels, jax.random.key(0))
        arrays = {name: np.zeros(x.shape[1:], x.dtype) for name, x in encoded.items()}
    else:
        dtype = np.float16 if is_drawn else np.float32
        arrays = {"latents": np.zeros(networks.latent_shape(frames, data.size), dtype)}

    if stage.class_names(experiment) is not None:
        return arrays | {"ids": np.zeros(1, np.int32), "fps": np.float32(0)}
    if not stage.reads_captions:
        return arrays
    if "text_states" in record and Component.TEXT not in experiment.model.trained:
        caption = {
            "text": np.zeros((text.tokens, text.width), np.float32),
            "is_captioned": np.bool_(True),
        }
    else:
        caption = {"ids": np.zeros(text.tokens, np.int32)}
    late = (
        {"is_late": np.bool_(False)} if is_drawn and field == CLIPS and data.late_fraction else {}
    )
    return arrays | caption | {"fps": np.float32(0)} | late
