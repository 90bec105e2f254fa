"""The super-resolution objective (MagicVideo's last stage): denoising of large pictures, given small ones.

    L = E || target - network(alpha_t z_0 + sigma_t eps, t, text, given, l) ||^2                          (1)
    z_0 = E(x) - b(s(x)),   given = alpha_l s(x) + sigma_l eps',   l ~ U{0 .. most_noise}                 (2)

x are pictures or random crops of them, s(x) their pixels shrunk by the auto-encoder's factor, and l
a level of the schedule of the small pictures, which the network embeds. For latents that are pixels,
b(s(x)) is the small picture enlarged: the network learns what bicubic resizing lacks (SRDiff, Li et
al. 2104.14951, section 3.3); otherwise it is 0. A network that has learned with noise on its small
pictures overlooks what another network has done to them (Ho et al. 2106.15282).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from magicvideo_jax.core.bicubic import shrink
from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Condition, Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.training.objectives import (
    DenoisingConfig,
    DenoisingNetworks,
    clean_latents,
    denoising_loss,
    draw_text_states,
)
from magicvideo_jax.training.step import Metrics, Objective, StepNumber


@dataclass(frozen=True)
class SuperResolutionConfig:
    """What an upscaler sees of a picture."""

    crop: int = 0
    """Side in pixels of the random crops of large pictures; 0: whole pictures. A convolutional network that has learned
    from crops works on frames of any size."""
    most_noise: int = 350
    """Largest level of the noise on small pictures; levels are uniform from 0."""

    def __post_init__(self) -> None:
        at_least(0, self, "crop", "most_noise")


def super_resolution_objective(
    networks: DenoisingNetworks,
    noise: NoiseScheduleConfig,
    picture_noise: NoiseScheduleConfig,
    config: SuperResolutionConfig,
    denoising: DenoisingConfig,
    *,
    factor: int,
    enlarged: Callable[[Array], Array | None],
    null_ids: Int[np.ndarray, "l"],
) -> Objective:
    """Super-resolution objective (eq. 1) on the pixels of a batch, frame by frame.

    `picture_noise` is the schedule of eq. 2, `factor` that of the auto-encoder, and `enlarged(small)` is b of eq. 2 in
    latents, or None.
    Errors: `UserError` for a batch of latents.
    """
    picture_schedule = schedule_of(picture_noise)

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        if "pixels" not in batch:
            raise UserError(
                "config.data.sources: a set of latents: super-resolution learns from pixels: run prepare with --pixels"
            )
        pixels = batch["pixels"]
        if config.crop:
            pixels = random_crops(subkey(key, "crop"), pixels, config.crop)
        small = to_float(shrink(pixels, factor))
        level = jax.random.randint(
            subkey(key, "noise level"), (len(pixels),), 0, config.most_noise + 1
        )
        eps = jax.random.normal(subkey(key, "picture noise"), small.shape)
        alpha, sigma = picture_schedule.alpha(level), picture_schedule.sigma(level)
        condition = Condition(
            draw_text_states(networks, params, batch, key, null_ids, denoising),
            given=corrupt(small, eps, alpha, sigma),
            noise_level=level,
        )
        z0 = clean_latents(networks, params, {"pixels": pixels}, key)
        if (base := enlarged(small)) is not None:
            z0 = z0 - base
        return denoising_loss(networks.denoise, params, z0, condition, key, noise, denoising)

    return objective


def random_crops(
    key: PRNGKeyArray, pixels: UInt8[Array, "b t h w 3"], side: int
) -> UInt8[Array, "b t h2 w2 3"]:
    """A square of each example at a random place, the same in all its frames.

    Errors: `UserError` for pictures that are smaller.
    """
    _, t, h, w, c = pixels.shape
    if side > min(h, w):
        raise UserError(
            f"config.super_resolution.crop={side}: pictures have {h} x {w} pixels: give at most {min(h, w)}"
        )
    most = jnp.array([h - side + 1, w - side + 1])
    corners = jax.random.randint(key, (len(pixels), 2), 0, most[None])

    def crop(clip: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(clip, (0, corner[0], corner[1], 0), (t, side, side, c))

    return jax.vmap(crop)(pixels, corners)
