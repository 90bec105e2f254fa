"""Objective of LFDM's diffusion (2303.13744, eq. 6): denoising of the flow from a clip's first frame to
all its frames.

    z_0 = [F, 2 O - 1],   L = E || eps - network(z_t, t, feature of the first frame, class) ||^2

F is flow and O occlusion of a frozen auto-encoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import positive, refused
from magicvideo_jax.core.class_names import NO_CLASS, plain_name
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import to_unit
from magicvideo_jax.core.types import FlowCondition, Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.training.colour_jitter import ColourJitterConfig, jittered
from magicvideo_jax.training.objectives import (
    DenoisingConfig,
    denoising_loss,
)
from magicvideo_jax.training.step import Metrics, Objective, StepNumber


@dataclass(frozen=True)
class FlowDiffusionConfig:
    """Classes of the clips, and how clips are varied."""

    classes: tuple[str, ...] = ()
    """Names of the classes, which captions and prompts are; empty: the motions of drawn clips."""
    class_vectors: str = ""
    """A .npz file with a vector of each name, such as an encoder's of its words; empty: vectors that
    stand apart from each other."""
    jitter: ColourJitterConfig = field(default_factory=ColourJitterConfig)
    residual_scale: float | None = None
    """Factor of the residual of flow, the flow less the pixels' own positions, which is denoised in the
    place of flow; None: flow itself is, as in the published models."""

    def __post_init__(self) -> None:
        positive(self, "residual_scale")
        names = [plain_name(name) for name in self.classes]
        if "" in names or len(set(names)) < len(names):
            raise refused(self, "classes", "give names that differ in more than case and spaces")


class FlowDiffusionNetworks(NamedTuple):
    """Networks that the objective calls, as functions of all parameters."""

    flow_latents: Callable[[Params, Float[Array, "b t h w 3"]], Float[Array, "b t h2 w2 3"]]
    """z_0 of clips in [0, 1]."""
    feature: Callable[[Params, Float[Array, "b h w 3"]], Float[Array, "b h2 w2 c"]]
    """Feature of the first frame."""
    condition: Callable[[Params, Float[Array, "b h w c"], Int[Array, "b 1"]], FlowCondition]
    """`condition(params, feature, ids)`; ids below 0 are of no class."""
    denoise: Callable[..., Float[Array, "b t h w 3"]]
    """`denoise(params, z, time, condition, as_images=False)`."""


def flow_diffusion_objective(
    networks: FlowDiffusionNetworks,
    noise: NoiseScheduleConfig,
    config: DenoisingConfig,
    jitter: ColourJitterConfig,
) -> Objective:
    """Objective L for clips `pixels`, uint8 (b t h w 3), of the classes `ids` (b 1); or for their
    `flow` (b t h2 w2 3) with `pixels` of the first frame alone."""

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        clips = to_unit(batch["pixels"])
        if "flow" in batch:
            z0 = batch["flow"].astype(jnp.float32)
        else:
            clips = jittered(subkey(key, "jitter"), clips, jitter)
            z0 = networks.flow_latents(params, clips)
        z0 = jax.lax.stop_gradient(z0)
        feature = jax.lax.stop_gradient(networks.feature(params, clips[:, 0]))
        kept = jax.random.uniform(subkey(key, "caption"), (len(z0),)) >= config.caption_dropout
        ids = jnp.where(kept[:, None], batch["ids"], NO_CLASS)
        condition = networks.condition(params, feature, ids)
        return denoising_loss(networks.denoise, params, z0, condition, key, noise, config)

    return objective
