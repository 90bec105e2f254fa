"""Peak signal-to-noise ratio of clips."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.pixels import psnr_of_mse
from magicvideo_jax.core.types import Clips


def psnr(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """10 log10(255^2 / mean (decoded - source)^2) of each clip, in dB; infinity for equal clips."""
    squares = np.square(decoded.astype(np.float64) - source)
    return psnr_of_mse(squares.mean(axis=(1, 2, 3, 4)), peak=255.0)
