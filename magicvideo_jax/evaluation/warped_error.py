"""Does a decoded frame show what the one before showed, moved as the source moves? (Lai et al. 1808.00449, eq. 9)

E = mean_k mean_{p in M_k} | made_k(p) - made_{k-1}(p + v_k(p)) |,      v_k: flow of the source, true_k to true_{k-1}
M_k = { p : |true_k(p) - true_{k-1}(p + v_k(p))| < 16 levels }: where the source itself can be followed
"""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips
from magicvideo_jax.evaluation.optical_flow import optical_flow, warp

MAX_SOURCE_ERROR = 16.0
"""Levels that the source may differ from its own warped frame."""


def warped_error(made: Clips, true: Clips) -> Float[np.ndarray, "b"]:
    """E of each clip, in levels. The source itself has some: compare decoders of the same clips. Errors: `UserError`
    for single frames."""
    if made.shape[1] < 2:
        raise UserError("warped frames of clips of one frame: give two frames or more")
    return np.array(
        [
            _of_clip(m.astype(np.float64), t.astype(np.float64))
            for m, t in zip(made, true, strict=True)
        ]
    )


def _of_clip(made: Float[np.ndarray, "t h w c"], true: Float[np.ndarray, "t h w c"]) -> float:
    errors = []
    for k in range(1, len(made)):
        v = optical_flow(true[k - 1].mean(axis=-1), true[k].mean(axis=-1))
        is_followed = np.abs(true[k] - warp(true[k - 1], v)).mean(axis=-1) < MAX_SOURCE_ERROR
        error = np.abs(made[k] - warp(made[k - 1], v)).mean(axis=-1)
        errors.append(error[is_followed].mean() if is_followed.any() else 0.0)
    return float(np.mean(errors))
