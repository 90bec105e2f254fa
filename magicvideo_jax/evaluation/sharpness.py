"""Sharpness of frames, without a reference: blur lowers it, noise and detail raise it."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clips


def sharpness(clips: Clips) -> Float[np.ndarray, "b"]:
    """Root mean square of the Laplacian of grey frames (4 x less its four neighbours), in levels.

    Noise counts as detail: read it beside `motion`'s flicker, and beside the sharpness of real clips of the same size.
    """
    x = clips.astype(np.float32).mean(axis=-1)
    neighbours = x[:, :, :-2, 1:-1] + x[:, :, 2:, 1:-1] + x[:, :, 1:-1, :-2] + x[:, :, 1:-1, 2:]
    return np.sqrt(np.square(4 * x[:, :, 1:-1, 1:-1] - neighbours).mean(axis=(1, 2, 3)))
