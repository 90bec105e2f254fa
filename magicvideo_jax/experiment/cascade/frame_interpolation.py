"""Frame interpolation: a clip of 16 keyframes to one of 61 frames. LaVie's network stands here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Key, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.cascade.pairwise_interpolation import PairwiseInterpolation
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import SampleStart
from magicvideo_jax.experiment.opening.initial_weights import initial_from, initial_weights
from magicvideo_jax.experiment.opening.weight_additions import with_unet_of
from magicvideo_jax.sampling.interpolation import copied_keyframes, interpolated_frames
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import INTERPOLATION_SAMPLE
from magicvideo_jax.weights.fitting import UNetTask


class LaVieInterpolation(ClipRefiner):
    """All frames are sampled anew, those of the source too; each is given the latents of the nearest of these.

    The latents are encoded from pixels, as in training: a clip from elsewhere serves as well.
    """

    label = "interpolate"
    sample = INTERPOLATION_SAMPLE
    negative_prompt = "None"
    prompt_suffix = ", 4k."
    frame_rate_ratio = 3

    def many(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int = 0,
        sample: SampleConfig | None = None,
    ) -> UInt8[np.ndarray, "b t2 h w 3"]:
        """Clips of 4 (t - 1) + 1 frames; the network was trained for t = 16."""
        _, t, height, width, _ = clips.shape
        if t < 2:
            raise UserError(
                "--interpolate: a clip of 1 frame has nothing between: give --frames=16"
            )
        frames, size = interpolated_frames(t), (height, width)
        return self.refine_at_once(
            clips, prompts, frames=frames, size=size, seed=seed, sample=sample
        )

    def starts(
        self, params: Params, clips: UInt8[Array, "b t h w 3"], keys: Key[Array, "b"]
    ) -> SampleStart:
        """The latents of the nearest keyframe for each frame."""
        return SampleStart(copied_keyframes(self.networks.encode_each(params, clips, keys)))


def load_interpolation(path: str | Path, *, unet: str | Path) -> ClipRefiner:
    """Frame interpolation with a model of `configs/interpolation.py`, or with LaVie's network.

    The latter (`lavie_interpolation.pt`) uses the VAE and the text encoder of `path`, Stable Diffusion 1.4. Errors:
    `UserError` naming the argument of `sample`.
    """
    name = f"--interpolate={unet}"
    own = initial_weights(str(unet), argument="--interpolate")
    temporal = own.parts[Component.UNET].config.temporal if Component.UNET in own.parts else None
    if temporal is not None and temporal.known_frames:
        return PairwiseInterpolation(own, name)
    initial = initial_weights(str(path), argument="--weights")
    weights = with_unet_of(
        initial.weights, str(unet), argument="--interpolate", task=UNetTask.INTERPOLATE
    )
    return LaVieInterpolation(initial_from(weights), name)
