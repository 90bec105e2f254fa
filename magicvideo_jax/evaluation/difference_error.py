"""Error of frame differences: the flicker that a decoder adds to the change from frame to frame."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips


def difference_error(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """mean |(x'_k - x'_{k-1}) - (x_k - x_{k-1})| of each clip, in levels.

    It is 0 for an error that is the same in all frames. Errors: `UserError` for single frames.
    """
    if decoded.shape[1] < 2:
        raise UserError("frame differences of clips of one frame: give two frames or more")
    residual = decoded.astype(np.float64) - source
    return np.abs(np.diff(residual, axis=1)).mean(axis=(1, 2, 3, 4))
