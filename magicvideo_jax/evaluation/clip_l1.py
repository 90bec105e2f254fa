"""LFDM's reconstruction error of clips."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clips


def clip_l1(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """sum_k mean |decoded_k - source_k| over the frames k of each clip, of pixels in [0, 1]. It grows with
    the number of frames, as in LFDM's tables, whose clips have 40."""
    error = np.abs(decoded.astype(np.float64) - source) / 255
    return error.mean(axis=(2, 3, 4)).sum(axis=1)
