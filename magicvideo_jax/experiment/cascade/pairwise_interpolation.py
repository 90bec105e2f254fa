"""MagicVideo's frame interpolation: three frames between any two neighbours, all pairs of a clip at once."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.opening.initial_weights import InitialWeights
from magicvideo_jax.sampling.interpolation import (
    FRAMES_PER_KEYFRAME,
    between_ends,
    interpolated_frames,
)
from magicvideo_jax.sampling.keyframes import SampleConfig

MOST_PAIRS = 16
"""Pairs of keyframes in one batch: those of the paper's 16 frames."""


class PairwiseInterpolation(ClipRefiner):
    """A network of `configs/interpolation.py` samples what lies between two neighbours, told both.

    The frames of the source come through as they are.
    """

    label, result = "interpolate", "interpolated"
    negative_prompt = ""
    frame_rate_ratio = FRAMES_PER_KEYFRAME

    def __init__(self, initial: InitialWeights, name: str):
        """See `ClipRefiner`."""
        self.sample = initial.sample(name) or SampleConfig(steps=10, guidance=1.0)
        super().__init__(initial, name)

    def parts(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int,
        sample: SampleConfig,
    ) -> Iterator[UInt8[np.ndarray, "b t2 h w 3"]]:
        """Clips of 4 (t - 1) + 1 frames, in one part."""
        b, t, h, w, _ = clips.shape
        self.result_size(t, h, w)
        pairs = _pairs(clips)
        sampled = self.refine_at_once(
            pairs,
            [prompt for prompt in prompts for _ in range(t - 1)],
            frames=FRAMES_PER_KEYFRAME + 1,
            size=(h, w),
            seed=seed,
            sample=sample,
            batch_size=min(MOST_PAIRS, b * (t - 1)),
        )
        frames = between_ends(sampled, pairs.pixels[:, [0, -1]])
        # The last of a pair is the first of the next.
        frames = frames[:, :-1].reshape(b, -1, *clips.shape[2:])
        yield np.concatenate([frames, clips[:, -1:]], axis=1)

    def result_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """See `ClipRefiner`."""
        return interpolated_size(frames, height, width)


def interpolated_size(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Frames, height and width of an interpolated clip. Errors: `UserError` for a single frame."""
    if frames < 2:
        raise UserError("--interpolate: a clip of 1 frame has nothing between: give --frames=16")
    return interpolated_frames(frames), height, width


def _pairs(clips: UInt8[np.ndarray, "b t h w 3"]) -> KnownFrames:
    """Neighbouring frames as the first and the last of short clips, all of one clip after the other."""
    b, t, *shape = clips.shape
    frames = FRAMES_PER_KEYFRAME + 1
    pixels = np.zeros((b, t - 1, frames, *shape), np.uint8)
    pixels[:, :, 0], pixels[:, :, -1] = clips[:, :-1], clips[:, 1:]
    ends = np.isin(np.arange(frames), (0, frames - 1))
    return KnownFrames(pixels.reshape(-1, frames, *shape), np.tile(ends, (b * (t - 1), 1)))
