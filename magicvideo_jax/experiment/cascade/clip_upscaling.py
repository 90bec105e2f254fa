"""Super-resolution: clips of larger height and width, by a network of `configs/super_resolution.py`, LaVie's, or Stable
Diffusion's x4 upscaler."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.opening.initial_weights import (
    InitialWeights,
    initial_from,
    initial_weights,
)
from magicvideo_jax.experiment.opening.weight_additions import with_unet_of
from magicvideo_jax.experiment.stages.super_resolution_evaluator import small_clips
from magicvideo_jax.sampling.frame_noise import FrameNoise
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import SUPER_RESOLUTION_SAMPLE
from magicvideo_jax.sampling.super_resolution import parts_of
from magicvideo_jax.sampling.tiles import TileConfig
from magicvideo_jax.weights.fitting import UNetTask, check_task

LEAST_TILE = 8
"""Pixels; smaller parts are mostly overlap."""


class ClipUpscaling(ClipRefiner):
    """The frames are given as pixels with a little noise; parts of 8 frames are sampled one after the other."""

    label, result = "upscale", "upscaled"
    sample = SUPER_RESOLUTION_SAMPLE
    negative_prompt = "blur, worst quality"

    def __init__(self, initial: InitialWeights, name: str, *, tile: int | None = None):
        """See `ClipRefiner`. `tile` is the side in pixels of the parts of small frames that are enlarged at once; 0:
        whole frames; None: as the weights say."""
        if (own := initial.sample(name)) is not None:
            self.sample, self.negative_prompt = own, ""
        if tile is not None:
            tiles = TileConfig(tile, min(self.sample.tiles.overlap, tile // 2))
            self.sample = replace(self.sample, tiles=tiles)
        super().__init__(initial, name)

    def parts(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int,
        sample: SampleConfig,
    ) -> Iterator[UInt8[np.ndarray, "b k h2 w2 3"]]:
        """Clips of as many frames, 8 at a time."""
        _, t, h, w, _ = clips.shape
        _, *size = self.result_size(t, h, w)
        is_shared = sample.frame_noise is FrameNoise.SHARED
        for part in parts_of(t):
            yield self.refine_at_once(
                small_clips(clips[:, part], sample),
                prompts,
                frames=part.stop - part.start,
                size=(size[0], size[1]),
                seed=seed,
                sample=sample,
                purpose="all frames" if is_shared else f"frames from {part.start}",
            )

    def result_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """See `ClipRefiner`."""
        factor = self.experiment.model.vae.factor
        return frames, height * factor, width * factor


def load_upscaling(
    path: str | Path, *, unet: str | Path = "", tile: int | None = None
) -> ClipUpscaling:
    """Super-resolution with a model of `configs/super_resolution.py`, with Stable Diffusion's x4 upscaler, or with
    LaVie's network (`lavie_vsr.pt`) on the latter.

    `path` is a work folder, or the pipeline of an upscaler; without `unet` its own network upscales every frame by
    itself. `tile` is that of `ClipUpscaling`. Errors: `UserError` naming the argument of `sample`.
    """
    name, task = f"--upscale={path}", UNetTask.UPSCALE
    initial = initial_weights(str(path), argument="--upscale")
    if Component.UNET in initial.parts:
        check_task(initial.parts[Component.UNET].config, task, name)
    weights = with_unet_of(initial.weights, str(unet), argument="--super_resolution", task=task)
    initial = initial_from(weights)
    if Component.UNET not in initial.parts:
        raise UserError(
            f"{name}: holds no U-Net: give a work folder of configs/super_resolution.py, or Stable Diffusion's x4 "
            "upscaler"
        )
    return ClipUpscaling(initial, name, tile=tile)
