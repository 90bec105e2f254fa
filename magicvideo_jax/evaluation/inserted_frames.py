"""Frames inserted between the first and the last of a clip, beside what costs nothing."""

import numpy as np

from magicvideo_jax.core.pixels import psnr_of_mse
from magicvideo_jax.core.types import Clips


def inserted_frames(samples: Clips, reference: Clips) -> dict[str, float]:
    """PSNR in dB of all frames but the first and the last, which were known, of all clips together.

    Also that of a linear blend of these two, and of the nearer one repeated. Squares are averaged
    over clips: alone, a clip that rests would be exact. Clips have three frames or more.
    """
    last = reference.shape[1] - 1
    at = np.arange(1, last)
    share = (at / last)[:, None, None, None]
    first_frame, last_frame = (reference[:, [i]].astype(np.float64) for i in (0, last))
    between = reference[:, 1:last]
    guesses = {
        "psnr": samples[:, 1:last],
        "psnr_of_blending": np.round((1 - share) * first_frame + share * last_frame),
        "psnr_of_repetition": np.where(share < 0.5, first_frame, last_frame),
    }
    return {name: _psnr(guess, between) for name, guess in guesses.items()}


def _psnr(guess: Clips, truth: Clips) -> float:
    squares = np.square(guess.astype(np.float64) - truth)
    return float(psnr_of_mse(squares.mean(keepdims=True), peak=255.0).item())
