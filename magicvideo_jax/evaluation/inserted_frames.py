"""Frames inserted between the first and the last of a clip, beside what costs nothing."""

import numpy as np

from magicvideo_jax.core.types import Clips
from magicvideo_jax.evaluation.psnr import psnr


def inserted_frames(samples: Clips, reference: Clips) -> dict[str, float]:
    """Mean PSNR in dB of all frames but the first and the last, which were known.

    Also that of a linear blend of these two, and of the nearer one repeated. Clips have three
    frames or more.
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
    return {name: float(psnr(guess, between).mean()) for name, guess in guesses.items()}
