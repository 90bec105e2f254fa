"""What a run's step is, and where its state lives: one definition for runs and for plans of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Experiment, TrainingStage
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import split_trained
from magicvideo_jax.models.lpips import has_lpips, lpips
from magicvideo_jax.parallel.mesh import replicated
from magicvideo_jax.parallel.shardings import parameter_shardings, with_sharding
from magicvideo_jax.training.objectives import autoencoding, denoising, joint
from magicvideo_jax.training.state import TrainState, fresh_state
from magicvideo_jax.training.step import Objective, accumulated, train_step
from magicvideo_jax.training.video_autoencoding import VideoVAEConfig, video_autoencoding


def make_objective(
    experiment: Experiment, networks: Networks, tokenize: Tokenize | None
) -> Objective:
    """The objective of the stage."""
    if experiment.stage is TrainingStage.VAE:
        return autoencoding(
            networks.moments,
            partial(networks.decode_unscaled, as_images=True),
            experiment.autoencoding,
        )
    if experiment.stage is TrainingStage.VIDEO_VAE:
        return _video_autoencoding(experiment.video_vae, networks)
    if tokenize is None:
        raise ValueError(f"stage {experiment.stage.value} needs a tokenizer")
    stage = partial(
        denoising,
        networks.denoising_networks(),
        experiment.model.noise,
        experiment.denoising,
        null_ids=tokenize([""])[0],
    )
    if experiment.data.joint_images:
        return joint(stage(), stage(as_images=True), experiment.denoising)
    return stage(as_images=experiment.stage is TrainingStage.IMAGE)


def _video_autoencoding(config: VideoVAEConfig, networks: Networks) -> Objective:
    return video_autoencoding(
        networks.encode,
        networks.decode,
        config,
        decode_images=partial(networks.decode, as_images=True) if config.image_weight else None,
        distance=lpips(config.trunk) if config.lpips and has_lpips() else None,
        discriminate=networks.discriminate if config.adversarial else None,
    )


def make_step(
    experiment: Experiment,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    tokenize: Tokenize | None,
) -> Callable[..., Any]:
    """`step(state, batch)`, not yet compiled."""
    return partial(
        train_step,
        objective=accumulated(
            make_objective(experiment, networks, tokenize), experiment.train.accumulate
        ),
        optimizer=optimizer,
        ema_decay=experiment.optim.ema_decay,
        seed=experiment.seed,
    )


def state_shapes(
    params: Params,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
) -> TrainState:
    """The state as shapes in their places; EMA and moments are spread like the parameters they belong to."""
    trained, frozen = split_trained(params, experiment)
    shapes = jax.eval_shape(partial(fresh_state, optimizer=optimizer), trained)._replace(
        frozen=frozen
    )
    places = partial(parameter_shardings, mesh=mesh, min_size=experiment.mesh.fsdp_min_size)
    by_path = {
        tuple(f"{component}.{path}".split(".")): sharding
        for component, tree in params.items()
        for path, sharding in flatten(places(tree)).items()
    }

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        # An optimizer of several puts its own name in front.
        sharding = by_path.get(names) or by_path.get(names[1:]) or replicated(mesh)
        return with_sharding(leaf, sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)
