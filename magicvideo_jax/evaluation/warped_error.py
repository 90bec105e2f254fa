"""Warping error: inconsistency of consecutive decoded frames under the motion of the source
(1808.00449, eq. 9).

    E = mean_k mean_{p in M_k} |x'_k(p) - x'_{k-1}(p + v_k(p))|
    M_k = {p : |x_k(p) - x_{k-1}(p + v_k(p))| < 16}

x' is the decoded clip, x the source, and v_k the flow of the source from frame k to k - 1. M_k
excludes pixels, such as occluded ones, whose change the flow does not explain.
"""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips
from magicvideo_jax.evaluation.optical_flow import optical_flow, warp

MAX_SOURCE_ERROR = 16.0
"""Largest difference in levels between the source and its warped previous frame where the flow
counts as valid."""


def warped_error(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """E of each clip, in levels.

    It is not 0 for the source itself, so compare decoders on the same clips.

    Errors: `UserError` for single frames.
    """
    if decoded.shape[1] < 2:
        raise UserError("warped frames of clips of one frame: give two frames or more")
    return np.array(
        [
            _error_of_clip(d.astype(np.float64), s.astype(np.float64))
            for d, s in zip(decoded, source, strict=True)
        ]
    )


def _error_of_clip(
    decoded: Float[np.ndarray, "t h w c"], source: Float[np.ndarray, "t h w c"]
) -> float:
    errors = []
    for k in range(1, len(decoded)):
        v = optical_flow(source[k - 1].mean(axis=-1), source[k].mean(axis=-1))
        is_valid = np.abs(source[k] - warp(source[k - 1], v)).mean(axis=-1) < MAX_SOURCE_ERROR
        error = np.abs(decoded[k] - warp(decoded[k - 1], v)).mean(axis=-1)
        errors.append(error[is_valid].mean() if is_valid.any() else 0.0)
    return float(np.mean(errors))
