"""Keyframe sampling (MagicVideo's first stage): latents z_0 from text, denoised from z_T ~ N(0, 1)
with guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import jax
from jaxtyping import Array, Float, Key

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


@dataclass(frozen=True)
class SampleConfig:
    """Default sampler, number of steps, guidance scale and frame rate."""

    sampler: Sampler = Sampler.DDIM
    steps: int = 50
    guidance: float = 7.5
    fps: float = 8.0


def make_solver_table(config: SampleConfig, noise: NoiseScheduleConfig) -> SolverTable:
    """Solver table of a sampler and a number of steps. Errors: those of the sampler's table."""
    match config.sampler:
        case Sampler.DDIM:
            return ddim(noise, config.steps)
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
    guidance: float,
    shape: tuple[int, int, int, int],
) -> Float[Array, "b t h w c"]:
    """Scaled latents of `shape` (t h w c) for each text.

    All noise of clip i is drawn from `keys[i]`.

    `denoise(params, z, time, condition)` is the network. `null_text` is the unconditional or
    negative prompt, from which guidance of this scale leads away. `fps` conditions the network on
    the frame rate.
    """

    def network(z: Array, time: Array, condition: Condition, /) -> Array:
        return denoise(params, z, time, condition)

    eps = jax.vmap(lambda key: jax.random.normal(subkey(key, "noise"), shape))(keys)
    guided_denoise = guided(network, guidance, Condition(null_text, fps))
    z = initial_latents(table, eps)
    return run_sampler(guided_denoise, z, Condition(text, fps), table=table, keys=keys)
