"""Clips that begin with known frames, and clips longer than a model's: each window goes on with the end of the last."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.sampling.keyframes import SampleConfig

KNOWN_FRAMES = 4
"""Usual number of frames that a window takes over from the last: enough to show how things move."""


def known_beginning(
    clip: UInt8[np.ndarray, "k h w 3"], *, frames: int, number: int = 1
) -> KnownFrames:
    """The same first frames for each of `number` clips."""
    return _beginnings(np.repeat(clip[None], number, axis=0), frames=frames)


def sample_onwards(
    pipe: Pipeline,
    prompts: Sequence[str],
    sample: SampleConfig,
    start: KnownFrames,
    *,
    frames: int,
    overlap: int = KNOWN_FRAMES,
    fps: Sequence[float] | None = None,
    seed: int = 0,
    negative_prompt: str = "",
    batch_size: int = 1,
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Clips of so many `frames` that begin with the known frames of `start`, which is one window.

    Each next window is told the last `overlap` frames, at most all but one of a window. Every window has noise of its
    own. Errors: those of `Pipeline.many`.
    """
    length = start.pixels.shape[1]
    overlap = min(overlap, length - 1)
    clips, window = start.pixels[:, :0], start
    while clips.shape[1] < frames:
        if clips.shape[1]:
            window = _beginnings(clips[:, -overlap:], frames=length)
        more = pipe.many(
            prompts,
            sample,
            fps=fps,
            seed=seed,
            frames=length,
            negative_prompt=negative_prompt,
            batch_size=batch_size,
            start=window,
            purpose=f"frames from {clips.shape[1]}",
        )
        shared = min(overlap, clips.shape[1])
        clips = np.concatenate([clips, more[:, shared:]], axis=1)
    return clips[:, :frames]


def _beginnings(clips: UInt8[np.ndarray, "b k h w 3"], *, frames: int) -> KnownFrames:
    """Clips as the first frames of others."""
    number, known, *shape = clips.shape
    pixels = np.zeros((number, frames, *shape), np.uint8)
    pixels[:, :known] = clips
    return KnownFrames(pixels, np.tile(np.arange(frames) < known, (number, 1)))
