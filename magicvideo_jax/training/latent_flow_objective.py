"""Objective of LFDM's auto-encoder (2303.13744, section 3.2; the losses of Siarohin et al. 2104.11280).

    L = w_p sum_s sum_l mean |f_l(x'_s) - f_l(x_s)| + w_x sum_s mean |x'_s - x_s| + w_e (L_shift + L_affine)

x' is the driving frame made of its source; s are the scales 1, 1/2, 1/4 and 1/8, and f_l features of
VGG-19. Source and driving are two frames of a clip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import to_unit
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.lfdm.flow_sampling import antialiased
from magicvideo_jax.models.lfdm.latent_flow import FlowTrainingPass
from magicvideo_jax.training.batch_statistics import moved_towards
from magicvideo_jax.training.colour_jitter import ColourJitterConfig, jittered
from magicvideo_jax.training.equivariance import (
    RandomWarp,
    draw_warp,
    equivariance_losses,
    warp_pictures,
)
from magicvideo_jax.training.step import Metrics, Objective, StepNumber

_SCALES = (1.0, 0.5, 0.25, 0.125)
LEAST_COMPARED_SIDE = 128
"""Side in pixels of pictures of which relu5_1 has one pixel at the smallest scale; of smaller ones it has none."""

_Pictures = Float[Array, "b h w 3"]


@dataclass(frozen=True)
class LatentFlowLossConfig:
    """Weights of the loss terms, and what pairs of frames are trained on."""

    perceptual: float = 10.0
    """w_p; the term is left out with a message where no VGG-19 is given."""
    vgg: str = ""
    """torchvision's weights of VGG-19, a file of torch or safetensors. Empty: none."""
    pixels: float = 0.0
    """w_x, for training without VGG-19."""
    equivariance: float = 10.0
    """w_e."""
    warp: float = 0.05
    """Standard deviation of the affine maps of L_shift and L_affine about the identity."""
    bends: float = 0.005
    """Standard deviation of their bends."""
    pairs: int = 1
    """Pairs of frames that are drawn of each clip."""
    flips: bool = True
    """Whether half of the pairs are reversed in time, and half of the others mirrored."""
    jitter: ColourJitterConfig = field(default_factory=ColourJitterConfig)

    def __post_init__(self) -> None:
        at_least(0, self, "perceptual", "pixels", "equivariance", "warp", "bends")
        at_least(1, self, "pairs")


class LatentFlowNetworks(NamedTuple):
    """Networks that the objective calls, as functions of all parameters."""

    train: Callable[[Params, _Pictures, _Pictures, _Pictures], FlowTrainingPass]
    """`train(params, source, driving, warped)`, in training mode."""
    features: Callable[[Params, _Pictures], list[Array]] | None
    """Features of VGG-19, or None."""
    name: str
    """Name of the auto-encoder's parameters."""


def latent_flow_objective(networks: LatentFlowNetworks, config: LatentFlowLossConfig) -> Objective:
    """Objective L for clips `pixels`, uint8 (b t h w 3)."""

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        pairs = draw_pairs(subkey(key, "pairs"), batch["pixels"], config)
        warp = draw_warp(subkey(key, "warp"), len(pairs), affine=config.warp, bends=config.bends)
        return latent_flow_loss(networks, params, pairs[:, 0], pairs[:, 1], warp, config)

    return objective


def latent_flow_loss(
    networks: LatentFlowNetworks,
    params: Params,
    source: _Pictures,
    driving: _Pictures,
    warp: RandomWarp,
    config: LatentFlowLossConfig,
) -> tuple[Array, Metrics]:
    """L of pairs and warps, whose gradient moves batch statistics too, and its terms."""
    made = networks.train(params, source, driving, warp_pictures(warp, driving))
    frame = made.frame
    shift, affine = equivariance_losses(warp, made.driving, made.warped)
    metrics = {
        "l1": jnp.abs(frame.prediction - driving).mean(),
        "l1_deformed": jnp.abs(frame.deformed - driving).mean(),
        "shift": shift,
        "affine": affine,
    }
    loss = config.equivariance * (shift + affine)
    scaled = [(antialiased(frame.prediction, s), antialiased(driving, s)) for s in _SCALES]
    if config.pixels:
        metrics["pixels"] = sum((jnp.abs(x - y).mean() for x, y in scaled), jnp.zeros(()))
        loss = loss + config.pixels * metrics["pixels"]
    if networks.features is not None and config.perceptual:
        metrics["perceptual"] = sum(
            (_feature_distance(networks.features, params, x, y) for x, y in scaled),
            jnp.zeros(()),
        )
        loss = loss + config.perceptual * metrics["perceptual"]
    statistics = moved_towards(params[networks.name], made.statistics)
    return loss + statistics.astype(loss.dtype), metrics


def _feature_distance(
    features: Callable[[Params, _Pictures], list[Array]], params: Params, x: _Pictures, y: _Pictures
) -> Float[Array, ""]:
    fixed = jax.lax.stop_gradient(params)
    ours, theirs = features(fixed, x), jax.lax.stop_gradient(features(fixed, y))
    return sum(
        (jnp.abs(one - other).mean() for one, other in zip(ours, theirs, strict=True)),
        jnp.zeros(()),
    )


def draw_pairs(
    key: PRNGKeyArray, pixels: UInt8[Array, "b t h w 3"], config: LatentFlowLossConfig
) -> Float[Array, "p 2 h w 3"]:
    """Two random frames of each clip in [0, 1], the earlier first, `config.pairs` times; some of them
    reversed, mirrored and jittered."""
    b, t = pixels.shape[:2]
    number = b * config.pairs
    moments = jax.random.randint(subkey(key, "moments"), (b, 2 * config.pairs), 0, t)
    moments = jnp.sort(moments.reshape(b, config.pairs, 2), axis=-1)
    flips = (b, config.pairs, 1)
    is_reversed = config.flips & jax.random.bernoulli(subkey(key, "reversed"), shape=flips)
    is_mirrored = config.flips & jax.random.bernoulli(subkey(key, "mirrored"), shape=flips)
    moments = jnp.where(is_reversed, moments[..., ::-1], moments)
    taken = jax.vmap(lambda clip, which: clip[which])(pixels, moments.reshape(b, -1))
    pairs = to_unit(taken.reshape(number, 2, *pixels.shape[2:]))
    is_mirrored = (is_mirrored & ~is_reversed).reshape(number, 1, 1, 1, 1)
    pairs = jnp.where(is_mirrored, pairs[:, :, :, ::-1], pairs)
    return jittered(subkey(key, "jitter"), pairs, config.jitter)
