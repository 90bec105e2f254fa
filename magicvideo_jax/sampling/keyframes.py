"""Keyframe sampling (MagicVideo's first stage): latents z_0 from text, denoised from z_T ~ N(0, 1)
with guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Key

from magicvideo_jax.core.checks import at_least, at_most, positive, refused, share
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import Condition, Params
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.solvers import SolverTable, ddim, ddpm, dpm_solver, euler


class Sampler(Enum):
    """Sampling method."""

    DDIM = "ddim"
    DPM = "dpm++2m"
    EULER = "euler"
    DDPM = "ddpm"


MOST_FPS = 60
MOST_GUIDANCE = 1000
"""Far beyond any use; larger scales overflow in half precision."""


@dataclass(frozen=True)
class SampleConfig:
    """Default sampling settings, which `sample` and the pipeline override."""

    sampler: Sampler = Sampler.DDIM
    steps: int = 50
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1 is none."""
    guidance_rescale: float = 0.0
    """phi of Lin et al. 2305.08891, eq. 16: 0 is none; about 0.7 for models of zero terminal SNR."""
    eta: float = 0.0
    """Noise that DDIM adds, from 0 (none) to 1 (as much as DDPM)."""
    fps: float = 8.0
    """Frame rate, a condition of the model and the rate of the clip's file."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps")
        at_least(0, self, "guidance")
        at_most(MOST_GUIDANCE, self, "guidance")
        share(self, "guidance_rescale", "eta")
        if self.eta and self.sampler is not Sampler.DDIM:
            raise refused(
                self, "eta", "give 0, or sampler=ddim: the others have a noise of their own"
            )
        positive(self, "fps")
        at_most(MOST_FPS, self, "fps")


class Guidance(NamedTuple):
    """Classifier-free guidance; numbers or traced scalars."""

    scale: Any
    rescale: Any = 0.0


def make_solver_table(config: SampleConfig, noise: NoiseScheduleConfig) -> SolverTable:
    """Solver table of a sampler and a number of steps. Errors: those of its table."""
    match config.sampler:
        case Sampler.DDIM:
            return ddim(noise, config.steps, eta=config.eta)
        case Sampler.DPM:
            return dpm_solver(noise, config.steps)
        case Sampler.EULER:
            return euler(noise, config.steps)
        case Sampler.DDPM:
            return ddpm(noise, config.steps)


def sample_keyframes(
    params: Params,
    text: Float[Array, "b l d"],
    null_text: Float[Array, "b l d"],
    fps: Float[Array, "b"],
    keys: Key[Array, "b"],
    *,
    denoise: Callable[..., Float[Array, "b t h w c"]],
    table: SolverTable,
    guidance: Guidance | None,
    shape: tuple[int, int, int, int],
) -> Float[Array, "b t h w c"]:
    """Scaled latents of `shape` (t h w c) for each text.

    All noise of clip i is drawn from `keys[i]`. `denoise(params, z, time, condition)` is the
    network. `null_text` is the unconditional or negative prompt, from which guidance leads away;
    without guidance it is not used. `fps` conditions the network on the frame rate.
    """

    def network(z: Array, time: Array, condition: Condition, /) -> Array:
        return denoise(params, z, time, condition)

    if guidance is not None:
        null_condition = Condition(null_text, fps)
        network = guided(network, guidance.scale, null_condition, rescale=guidance.rescale)
    eps = jax.vmap(lambda key: jax.random.normal(subkey(key, "noise"), shape))(keys)
    z = initial_latents(table, eps)
    return run_sampler(network, z, Condition(text, fps), table=table, keys=keys)
