"""A run as shapes in their places: all that a compiler needs, on a mesh whose devices nobody need have."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.data.record_examples import FromRecord
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Component, Experiment, check_experiment
from magicvideo_jax.experiment.initial_weights import initial_of
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.recorded import open_clips
from magicvideo_jax.experiment.run_folder import components_of, shapes_of
from magicvideo_jax.experiment.step import make_step, state_shapes
from magicvideo_jax.experiment.streams import frames_of
from magicvideo_jax.parallel.batch import batch_sharding, check_batch
from magicvideo_jax.parallel.shardings import bytes_per_device
from magicvideo_jax.training.optimizer import make_optimizer
from magicvideo_jax.training.state import TrainState


@dataclass(frozen=True)
class AbstractRun:
    """A run that cannot be run."""

    experiment: Experiment
    mesh: Mesh | AbstractMesh
    optimizer: optax.GradientTransformation
    state: TrainState
    batch: Any
    step: Callable[..., Any]
    """`step(state, batch)`, not yet compiled."""


def fit_to_weights(experiment: Experiment) -> Experiment:
    """With the numbers of the networks in `init_from`; without any weights, the config's own."""
    if experiment.init_from:
        experiment = replace(experiment, model=initial_of(experiment).fitted(experiment.model))
    check_experiment(experiment)
    return experiment


def abstract_run(
    experiment: Experiment,
    networks: Networks,
    mesh: Mesh | AbstractMesh,
    tokenize: Tokenize | None = None,
) -> AbstractRun:
    """The run of a fitted experiment with its networks; without a tokenizer the empty prompt is any.

    Errors: a batch that the mesh does not divide.
    """
    check_batch(experiment.train.batch_size, mesh, accumulate=experiment.train.accumulate)
    has_rival = Component.DISCRIMINATOR in components_of(experiment)
    optimizer = make_optimizer(
        experiment.optim, experiment.train.steps, with_discriminator=has_rival
    )
    return AbstractRun(
        experiment,
        mesh,
        optimizer,
        state_shapes(shapes_of(networks, experiment), experiment, optimizer, mesh),
        batch_places(experiment, networks, mesh),
        make_step(
            experiment, networks, optimizer, tokenize or any_ids(experiment.model.text.tokens)
        ),
    )


def any_ids(tokens: int) -> Tokenize:
    """In place of a tokenizer that is not here: the right shape."""
    return lambda prompts: np.zeros((len(prompts), tokens), np.int32)


def batch_places(experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh) -> Any:
    """A batch of the training stream; of sets that are not here, as `prepare` writes them: latents, and no text."""

    def place(x: Any) -> jax.ShapeDtypeStruct:
        shape = (experiment.train.batch_size, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=batch_sharding(mesh, len(shape)))

    main = _example("sources", frames_of(experiment), experiment, networks)
    if not experiment.data.joint_images:
        return jax.tree.map(place, main)
    return jax.tree.map(
        place, {"video": main, "image": _example("pictures", 1, experiment, networks)}
    )


def bytes_by_part(run: AbstractRun) -> dict[str, int]:
    """Bytes that each device holds before anything is computed, and the gradients, which meet in its update: clipping
    by their norm needs them all. Activations come on top."""
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
    """Of a field's first source."""
    data, text, source = experiment.data, experiment.model.text, getattr(experiment.data, field)[0]
    is_here = source.path != DRAWN and Path(source.path).is_dir()
    record = open_clips(source, frames, argument=f"config.data.{field}")[0] if is_here else {}
    example: dict[str, Any]
    if is_here:
        example = dict(
            FromRecord(frames, experiment.model.vae.scaling)(record, np.random.default_rng(0))
        )
    elif source.path == DRAWN and not data.precompute_examples:
        example = {"pixels": np.zeros((frames, data.size, data.size, 3), np.uint8)}
    else:
        dtype = np.float16 if source.path == DRAWN else np.float32
        example = {"latents": np.zeros(networks.latent_shape(frames, data.size), dtype)}
    if not experiment.stage.has_text:
        return example
    if "text_states" in record and Component.TEXT not in experiment.model.trained:
        words = {
            "text": np.zeros((text.tokens, text.width), np.float32),
            "is_captioned": np.bool_(True),
        }
    else:
        words = {"ids": np.zeros(text.tokens, np.int32)}
    return example | words | {"fps": np.float32(0)}
