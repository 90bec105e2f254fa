"""Super-resolution (MagicVideo's last stage; LaVie 2309.15103, section 3.4; Stable Diffusion's x4 upscaler).

The network denoises latents of the large frames, given beside them the small ones with noise of a
low level l, which is embedded:

    given = alpha_l x + sigma_l eps,   eps ~ N(0, 1)                          (1)

The latents have the size of the small frames in pixels: the auto-encoder's factor is that of the
upscaling. A clip is upscaled in parts of 8 frames, each by itself; what holds the parts together are
the small frames, and noise that they share (`frame_noise.py`).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from magicvideo_jax.core.keys import subkey
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt
from magicvideo_jax.diffusion.schedule import schedule_of

FRAMES_OF_A_PART = 8
NOISE_LEVEL = 50
"""l of eq. 1 in LaVie's program; the x4 upscaler was trained on levels up to 350."""


def noisy_pictures(
    x: Float[Array, "b t h w c"],
    keys: Key[Array, "b"],
    noise: NoiseScheduleConfig,
    *,
    level: int | Int[Array, "b"],
    shares_noise: Bool[Array, "b"] | None = None,
) -> Float[Array, "b t h w c"]:
    """Small frames in [-1, 1] with noise of a level (eq. 1), the same in all frames of a clip that
    `shares_noise`."""
    eps = jax.vmap(lambda key: jax.random.normal(subkey(key, "picture noise"), x.shape[1:]))(keys)
    if shares_noise is not None:
        eps = jnp.where(shares_noise[:, None, None, None, None], eps[:, :1], eps)
    schedule, time = schedule_of(noise), jnp.asarray(level)
    return corrupt(x, eps, schedule.alpha(time), schedule.sigma(time))


def parts_of(frames: int) -> Iterator[slice]:
    """The parts of a clip that are upscaled one after the other."""
    for first in range(0, frames, FRAMES_OF_A_PART):
        yield slice(first, min(first + FRAMES_OF_A_PART, frames))
