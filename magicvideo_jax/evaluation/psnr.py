"""How near are decoded pixels to their source? Peak signal-to-noise ratio."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clips


def psnr(made: Clips, true: Clips) -> Float[np.ndarray, "b"]:
    """10 log10(255^2 / mean (made - true)^2) of each clip, in dB; equal clips have infinity."""
    error = np.square(made.astype(np.float64) - true).mean(axis=(1, 2, 3, 4))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)
