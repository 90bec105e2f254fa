"""Frame interpolation: a clip of 16 keyframes to one of 61 frames. LaVie's network stands here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Key, UInt8

from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.cascade.pairwise_interpolation import (
    PairwiseInterpolation,
    interpolated_size,
)
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import SampleStart
from magicvideo_jax.experiment.opening.initial_weights import (
    check_same_latents,
    initial_from,
    initial_weights,
)
from magicvideo_jax.experiment.opening.weight_additions import with_unet_of
from magicvideo_jax.sampling.interpolation import copied_keyframes
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import INTERPOLATION_SAMPLE
from magicvideo_jax.weights.fitting import UNetTask


class LaVieInterpolation(ClipRefiner):
    """All frames are sampled anew, those of the source too; each is given the latents of the nearest of these.

    The latents are encoded from pixels, as in training: a clip from elsewhere serves as well.
    """

    label, result = "interpolate", "interpolated"
    sample = INTERPOLATION_SAMPLE
    negative_prompt = "None"
    prompt_suffix = ", 4k."
    frame_rate_ratio = 3

    def parts(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int,
        sample: SampleConfig,
    ) -> Iterator[UInt8[np.ndarray, "b t2 h w 3"]]:
        """Clips of 4 (t - 1) + 1 frames, in one part; the network was trained for t = 16."""
        _, t, h, w, _ = clips.shape
        frames, *_ = self.result_size(t, h, w)
        yield self.refine_at_once(
            clips, prompts, frames=frames, size=(h, w), seed=seed, sample=sample
        )

    def result_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """See `ClipRefiner`."""
        return interpolated_size(frames, height, width)

    def starts(
        self, params: Params, clips: UInt8[Array, "b t h w 3"], keys: Key[Array, "b"]
    ) -> SampleStart:
        """The latents of the nearest keyframe for each frame."""
        return SampleStart(copied_keyframes(self.networks.encode_each(params, clips, keys)))


def load_interpolation(path: str | Path, *, unet: str | Path) -> ClipRefiner:
    """Frame interpolation with a model of `configs/interpolation.py`, or with LaVie's network.

    A U-Net alone, such as the latter (`lavie_interpolation.pt`), uses the VAE and the text encoder of `path`. Errors:
    `UserError` naming the argument of `sample`.
    """
    name = f"--interpolate={unet}"
    own = initial_weights(str(unet), argument="--interpolate")
    temporal = own.parts[Component.UNET].config.temporal if Component.UNET in own.parts else None
    is_pairwise = temporal is not None and temporal.known_frames
    if is_pairwise and Component.VAE in own.parts:
        return PairwiseInterpolation(own, name)
    initial = initial_weights(str(path), argument="--weights")
    task = UNetTask.GENERATE if is_pairwise else UNetTask.INTERPOLATE
    weights = with_unet_of(initial.weights, str(unet), argument="--interpolate", task=task)
    check_same_latents(initial, own, name)
    kind = PairwiseInterpolation if is_pairwise else LaVieInterpolation
    return kind(initial_from(weights), name)
