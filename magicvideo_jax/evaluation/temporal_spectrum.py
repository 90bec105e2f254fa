"""Temporal spectrum of the error of decoded clips: blur changes slowly, flicker fast.

    E(f) = sum_k (x'_k - x_k) exp(-2 pi i f k / t),      P(f) = |E(f)|^2 / t^2, both signs of f together

The powers sum to the mean square of the error (Parseval).
"""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips


def temporal_spectrum(decoded: Clips, source: Clips) -> Float[np.ndarray, "b f"]:
    """P of each clip in levels^2, averaged over pixels and channels; entry f is f / t cycles per
    frame.
    """
    t = decoded.shape[1]
    power = np.abs(np.fft.rfft(decoded.astype(np.float64) - source, axis=1)) ** 2 / t**2
    has_mirror = (np.arange(power.shape[1]) > 0) & (2 * np.arange(power.shape[1]) < t)
    return power.mean(axis=(2, 3, 4)) * np.where(has_mirror, 2.0, 1.0)


def fast_error(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """Fraction of the error's power above half the Nyquist frequency, a period of 4 frames.

    It is about one half for errors that are independent between frames. Errors: `UserError` for
    clips of fewer than four frames.
    """
    t = decoded.shape[1]
    if t < 4:
        raise UserError(f"temporal spectrum of clips of {t} frames: give four or more")
    power = temporal_spectrum(decoded, source)
    is_fast = np.arange(power.shape[1]) / t > 0.25
    total = power.sum(axis=1)
    return power[:, is_fast].sum(axis=1) / np.where(total > 0, total, 1)
