"""Super-resolution: clips of four times the height and width, by LaVie's network or Stable Diffusion's x4 upscaler."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.diffusion.known_schedules import LOW_RESOLUTION_NOISE
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import SampleStart
from magicvideo_jax.experiment.opening.initial_weights import (
    InitialWeights,
    initial_from,
    initial_weights,
)
from magicvideo_jax.experiment.opening.weight_additions import with_unet_of
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import SUPER_RESOLUTION_SAMPLE
from magicvideo_jax.sampling.super_resolution import NOISE_LEVEL, noisy_pictures, parts_of
from magicvideo_jax.weights.fitting import UNetTask, check_task


class ClipUpscaling(ClipRefiner):
    """The frames are given as pixels with a little noise; parts of 8 frames are sampled one after the other."""

    label = "upscale"
    sample = SUPER_RESOLUTION_SAMPLE
    negative_prompt = "blur, worst quality"

    def __init__(self, initial: InitialWeights, name: str):
        """See `ClipRefiner`."""
        self._noise = initial.weights.low_resolution or LOW_RESOLUTION_NOISE
        super().__init__(initial, name)

    def many(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int = 0,
        sample: SampleConfig | None = None,
    ) -> UInt8[np.ndarray, "b t h2 w2 3"]:
        """Clips of as many frames."""
        factor = self.experiment.model.vae.factor
        size = (clips.shape[2] * factor, clips.shape[3] * factor)
        parts = [
            self.refine_at_once(
                clips[:, part],
                prompts,
                frames=part.stop - part.start,
                size=size,
                seed=seed,
                sample=sample,
                purpose=f"frames from {part.start}",
            )
            for part in parts_of(clips.shape[1])
        ]
        return np.concatenate(parts, axis=1)

    def starts(
        self, params: Params, clips: UInt8[Array, "b t h w 3"], keys: Key[Array, "b"]
    ) -> SampleStart:
        """The small frames with noise, and its level."""
        del params
        pictures = noisy_pictures(to_float(clips), keys, self._noise, level=NOISE_LEVEL)
        return SampleStart(pictures, jnp.full(len(clips), NOISE_LEVEL, jnp.int32))


def load_upscaling(path: str | Path, *, unet: str | Path = "") -> ClipUpscaling:
    """Super-resolution with LaVie's network (`lavie_vsr.pt`) on Stable Diffusion's x4 upscaler.

    `path` is the upscaler's pipeline; without `unet` its own network upscales every frame by itself.
    Errors: `UserError` naming the argument of `sample`.
    """
    name, task = f"--upscaler={path}", UNetTask.UPSCALE
    initial = initial_weights(str(path), argument="--upscaler")
    if Component.UNET in initial.parts:
        check_task(initial.parts[Component.UNET].config, task, name)
    weights = with_unet_of(initial.weights, str(unet), argument="--super_resolution", task=task)
    return ClipUpscaling(initial_from(weights), name)
