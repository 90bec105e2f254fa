"""How fast does the error of decoded clips change? A blur stays with what it blurs; flicker comes and goes.

    E(f) = sum_k (made_k - true_k) exp(-2 pi i f k / t),      P(f) = |E(f)|^2 / t^2, both signs of f together

The powers sum to the mean square of the error (Parseval).
"""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips


def temporal_spectrum(made: Clips, true: Clips) -> Float[np.ndarray, "b f"]:
    """P of each clip, mean over pixels and channels, in levels squared; row entry f is f / t cycles a frame."""
    t = made.shape[1]
    power = np.abs(np.fft.rfft(made.astype(np.float64) - true, axis=1)) ** 2 / t**2
    has_mirror = (np.arange(power.shape[1]) > 0) & (2 * np.arange(power.shape[1]) < t)
    return power.mean(axis=(2, 3, 4)) * np.where(has_mirror, 2.0, 1.0)


def fast_error(made: Clips, true: Clips) -> Float[np.ndarray, "b"]:
    """The share of the error's power above half the Nyquist frequency (a period of 4 frames): an error that is new in
    every frame has about half. Errors: `UserError` for clips of fewer than four frames."""
    t = made.shape[1]
    if t < 4:
        raise UserError(f"temporal spectrum of clips of {t} frames: give four or more")
    power = temporal_spectrum(made, true)
    is_fast = np.arange(power.shape[1]) / t > 0.25
    total = power.sum(axis=1)
    return power[:, is_fast].sum(axis=1) / np.where(total > 0, total, 1)
