"""Keyframe sampling (MagicVideo's first stage): latents z_0 from text, denoised from z_T ~ N(0, 1)
with guidance, for clips of any length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from magicvideo_jax.core.checks import (
    FieldError,
    at_least,
    at_most,
    positive,
    refused,
    share,
)
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import Condition, Denoise, Params
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.known_schedules import (
    LAVIE_DDIM_NOISE,
    LAVIE_EULER_NOISE,
    LAVIE_NOISE,
)
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.solvers import (
    SolverTable,
    consistency,
    ddim,
    ddpm,
    dpm_solver,
    euler,
    image_to_image_table,
    lfdm_ddim,
    uni_pc,
    with_noise,
)
from magicvideo_jax.sampling.clip_split import NO_SPLIT, SplitConfig, SplitKind
from magicvideo_jax.sampling.feature_cache import with_feature_cache
from magicvideo_jax.sampling.frame_noise import FrameNoise, draw_frame_noise
from magicvideo_jax.sampling.free_init import (
    FreeInit,
    FreeInitConfig,
    make_free_init,
    with_free_init,
)
from magicvideo_jax.sampling.free_noise import free_noise
from magicvideo_jax.sampling.super_resolution import NOISE_LEVEL
from magicvideo_jax.sampling.tiles import TileConfig, tiled_denoiser
from magicvideo_jax.sampling.windows import (
    ContextConfig,
    ContextWindows,
    context_windows,
    windowed,
)


class Sampler(Enum):
    """Sampling method."""

    DDIM = "ddim"
    DPM = "dpm++2m"
    UNIPC = "unipc"
    EULER = "euler"
    DDPM = "ddpm"
    LCM = "lcm"
    """Sampler of latent consistency models, and of no other."""
    LFDM = "lfdm"
    """DDIM as LFDM's code has it, with as much noise as DDPM."""


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
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    """Part of diffusion time, from clean latents at 0 to pure noise at 1, in which guidance applies (2404.07724);
    steps outside it take half as long."""
    feature_cache: int = 1
    """Deep features of the U-Net are evaluated at every so many steps and reused at the others (2312.00858)."""
    eta: float = 0.0
    """Noise that DDIM adds, from 0 (none) to 1 (as much as DDPM)."""
    fps: float = 8.0
    """Frame rate, a condition of the model and the rate of the clip's file."""
    context: ContextConfig = field(default_factory=ContextConfig)
    """Windows for clips longer than those that the model was trained on."""
    free_init: FreeInitConfig = field(default_factory=FreeInitConfig)
    """Repeated sampling against flicker."""
    strength: float = 1.0
    """Share of the steps, those of less noise, that a clip which is edited goes through (SDEdit, Meng et al.
    2108.01073): it stays as it is at 0 and is forgotten at 1."""
    frame_noise: FrameNoise = FrameNoise.OWN
    """Whether all frames of a clip have the same noise, for networks that see them one by one."""
    tiles: TileConfig = field(default_factory=TileConfig)
    """Tiles in which frames are denoised that do not fit a device."""
    picture_noise: int = NOISE_LEVEL
    """Level of the noise on the small pictures that an upscaler enlarges; more hides what is wrong with them."""
    size: tuple[int, ...] = ()
    """Height and width in pixels; empty: those of the clips that the model was trained on."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How several devices share each clip."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "feature_cache")
        at_least(0, self, "guidance", "picture_noise")
        at_most(MOST_GUIDANCE, self, "guidance")
        share(self, "guidance_rescale", "eta", "strength")
        if self.eta and self.sampler is not Sampler.DDIM:
            raise refused(
                self, "eta", "give 0, or sampler=ddim: the others have a noise of their own"
            )
        interval = self.guidance_interval
        if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise refused(
                self, "guidance_interval", "give two numbers from 0 to 1, the smaller first"
            )
        is_whole = self.context.frames is None and not self.tiles.side
        if self.feature_cache > 1 and not (interval == (0.0, 1.0) and is_whole):
            advice = "give 1; with guidance_interval, context.frames or tiles nothing is reused"
            raise refused(self, "feature_cache", advice)
        if self.split.by is not SplitKind.NONE and not (is_whole and self.feature_cache == 1):
            raise FieldError(
                f"split.by={self.split.by.value}: give none with context.frames, tiles or feature_cache, "
                "which devices that share a clip do not have"
            )
        if len(self.size) not in (0, 2) or min(self.size, default=1) < 1:
            raise refused(self, "size", "give a height and a width in pixels")
        positive(self, "fps")
        at_most(MOST_FPS, self, "fps")


class Guidance(NamedTuple):
    """Classifier-free guidance; numbers or traced scalars."""

    scale: Any
    rescale: Any = 0.0
    """None: there is none, which is another program."""
    interval: Any = None
    """Least and largest time of guidance; None: it always applies, which is another program."""


class SamplerInputs(NamedTuple):
    """A sampler as arguments of a compiled program: a pytree, whose numbers compile nothing."""

    table: SolverTable
    guidance: Guidance | None = None
    context: ContextConfig = ContextConfig()
    """The only part that is not numbers: other windows have other programs."""
    windows: ContextWindows | None = None
    """None: the network sees the whole clip at once."""
    free_init: FreeInit | None = None
    """None: clips are sampled once."""
    frame_noise: FrameNoise = FrameNoise.OWN
    tiles: TileConfig = TileConfig()
    """Neither are numbers, as `context` is none."""
    feature_cache: Any = None
    """Steps from one evaluation of deep features to the next; None: they are evaluated at every step."""
    split: SplitConfig = NO_SPLIT
    """No numbers either."""


def make_sampler_inputs(
    config: SampleConfig, noise: NoiseScheduleConfig, *, shape: tuple[int, int, int, int]
) -> SamplerInputs:
    """Sampler of latents of `shape` (t h w c). Errors: those of its table.

    Its table is marked as stochastic, so that all samplers share a program.
    """
    # Parts of a clip are merged after guidance, unless that reads the deviation of a whole clip.
    merges_last = config.split.by is SplitKind.LATENTS and config.guidance_rescale == 0
    return SamplerInputs(
        table=with_noise(image_to_image_table(make_solver_table(config, noise), config.strength)),
        guidance=Guidance(
            np.float32(config.guidance),
            None if merges_last else np.float32(config.guidance_rescale),
            _guided_times(config, noise),
        ),
        context=config.context.for_clip(shape[0]),
        windows=context_windows(config.context, frames=shape[0], steps=config.steps),
        free_init=make_free_init(config.free_init, noise, shape=shape),
        frame_noise=config.frame_noise,
        tiles=config.tiles,
        feature_cache=np.int32(config.feature_cache) if config.feature_cache > 1 else None,
        split=config.split,
    )


def _guided_times(
    config: SampleConfig, noise: NoiseScheduleConfig
) -> tuple[np.float32, np.float32] | None:
    """Least and largest time of guidance; None: all of them."""
    low, high = config.guidance_interval
    if (low, high) == (0, 1):
        return None
    steps = noise.num_train_timesteps
    return np.float32(low * steps), np.float32(high * steps)


_PUBLISHED_NOISE = {
    (LAVIE_NOISE, Sampler.DDIM): LAVIE_DDIM_NOISE,
    (LAVIE_NOISE, Sampler.EULER): LAVIE_EULER_NOISE,
}
"""Schedules of models whose authors sample at other times with another sampler."""


def make_solver_table(config: SampleConfig, noise: NoiseScheduleConfig) -> SolverTable:
    """Solver table of a sampler and a number of steps. Errors: those of its table."""
    noise = _PUBLISHED_NOISE.get((noise, config.sampler), noise)
    match config.sampler:
        case Sampler.DDIM:
            return ddim(noise, config.steps, eta=config.eta)
        case Sampler.DPM:
            return dpm_solver(noise, config.steps)
        case Sampler.UNIPC:
            return uni_pc(noise, config.steps)
        case Sampler.EULER:
            return euler(noise, config.steps)
        case Sampler.DDPM:
            return ddpm(noise, config.steps)
        case Sampler.LCM:
            return consistency(noise, config.steps)
        case Sampler.LFDM:
            return lfdm_ddim(noise, config.steps)


def sample_keyframes(
    params: Params,
    condition: Condition,
    null_text: Float[Array, "b l d"],
    keys: Key[Array, "b"],
    *,
    denoise: Callable[..., Float[Array, "b t h w c"]],
    reusing: Callable[..., tuple[Array, Array]] | None = None,
    sampler: SamplerInputs,
    shape: tuple[int, int, int, int],
    z0: Float[Array, "b t h w c"] | None = None,
    embeds_guidance: bool = False,
    in_parts: Callable[[Denoise, Float[Any, "s"]], Denoise] | None = None,
    goes_on: Callable[[], bool] | None = None,
) -> Float[Array, "b t h w c"]:
    """Scaled latents of `shape` (t h w c) for each text of a condition, from noise, or from clips `z0` with noise.

    All noise of clip i is drawn from `keys[i]`. `denoise(params, z, time, condition,
    attention_window=)` is the network, and `reusing(params, z, time, condition, deep)` the same, which a
    sampler with a cache of features needs. `null_text` is the unconditional or negative prompt, from
    which guidance leads away; without guidance it is not used. A network that `embeds_guidance` is told
    the scale, and evaluated once a step. `in_parts(denoise, times)` makes of a network one that devices evaluate
    in parts, at steps of these times. `goes_on` is that of `run_sampler`.
    """
    table, guidance, context, windows, free_init, frame_noise, tiles, feature_cache, _ = sampler
    if guidance is not None and embeds_guidance:
        condition = condition._replace(guidance=jnp.broadcast_to(guidance.scale, keys.shape))

    def network(z: Array, time: Array, condition: Condition, /) -> Array:
        window = context.attention_window
        return denoise(params, z, time, condition, attention_window=window)

    def with_guidance(network: Denoise) -> Denoise:
        if guidance is None or embeds_guidance:
            return network
        scale, rescale, interval = guidance
        rescale = 0.0 if rescale is None else rescale

        def with_null_text(z: Array, time: Array, condition: Condition, /) -> Array:
            null = condition._replace(text=null_text)
            return guided(network, scale, null, rescale=rescale, interval=interval)(
                z, time, condition
            )

        return with_null_text

    def on_parts(network: Denoise) -> Denoise:
        return network if in_parts is None else in_parts(network, table.steps.time)

    network = tiled_denoiser(network, tiles)
    if windows is not None:
        network = windowed(network, windows, table.steps.time, select=_condition_of_window)

    def sample_once(eps: Array, keys: Array, /) -> Array:
        z = initial_latents(table, eps, z0)
        if feature_cache is None:
            # Merged once it is guided, what is sent is half; but rescaling needs the deviation of a whole clip.
            merges_last = guidance is None or guidance.rescale is None
            inner, outer = (with_guidance, on_parts) if merges_last else (on_parts, with_guidance)
            steps = outer(inner(network))
        else:
            assert reusing is not None
            unet = partial(reusing, params)
            steps = with_feature_cache(unet, feature_cache, z, condition, wrapped=with_guidance)
        return run_sampler(
            steps,
            z,
            condition,
            table=table,
            keys=keys,
            shares_noise=frame_noise is FrameNoise.SHARED,
            goes_on=goes_on,
        )

    def draw(key: PRNGKeyArray) -> Array:
        if context.frames is not None and context.reuse_noise:
            return free_noise(key, shape, context=context.frames)
        return draw_frame_noise(subkey(key, "noise"), shape, frame_noise)

    sample = sample_once if free_init is None else with_free_init(sample_once, free_init)
    return sample(jax.vmap(draw)(keys), keys)


def _condition_of_window(condition: Condition, frames: Array, stride: Array) -> Condition:
    """Condition of some frames of a clip: those that are further apart are of a lower rate."""
    if condition.given is not None:
        condition = condition._replace(given=jnp.take(condition.given, frames, axis=1))
    return condition if condition.fps is None else condition._replace(fps=condition.fps / stride)
