"""Clips that begin with known frames, and clips longer than a model's: each window goes on with the end of the last."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.types import KnownFrames, KnownLatents
from magicvideo_jax.experiment.generator import SampleRequest
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.sampling.keyframes import SampleConfig

KNOWN_FRAMES = 4
"""Usual number of frames that a window takes over from the last: enough to show how things move."""


def known_beginning(
    clip: UInt8[np.ndarray, "k h w 3"], *, frames: int, number: int = 1
) -> KnownFrames:
    """The same first frames for each of `number` clips."""
    known, *shape = clip.shape
    pixels = np.zeros((number, frames, *shape), np.uint8)
    pixels[:, :known] = clip
    return KnownFrames(pixels, np.tile(np.arange(frames) < known, (number, 1)))


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

    Each next window is told the latents of the last `overlap` frames, at most all but one of a window, and all windows
    are decoded as one clip: where two meet, nothing goes through the auto-encoder again. Noise differs by window.
    Errors: those of `Pipeline.many`.
    """
    length = start.pixels.shape[1]
    overlap = min(overlap, length - 1)
    is_known = np.tile(np.arange(length) < overlap, (len(prompts), 1))
    rates = [sample.fps] * len(prompts) if fps is None else fps

    def window(first: int, start: KnownFrames | KnownLatents) -> np.ndarray:
        purpose = f"frames from {first}"
        request = SampleRequest(prompts, rates, negative_prompt, seed, start, purpose)
        return pipe.latents(request, sample, frames=length, batch_size=batch_size)

    z = window(0, start)
    while (known := z.shape[1]) < frames:
        given = np.roll(z[:, -length:], overlap, axis=1)  # only the first `overlap` are read
        z = np.concatenate([z, window(known, KnownLatents(given, is_known))[:, overlap:]], axis=1)
    return pipe.decoded(z[:, :frames], batch_size=batch_size)
