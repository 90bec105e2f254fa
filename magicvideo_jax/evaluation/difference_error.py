"""Do frames change as those of the source do? What a decoder adds to the change from frame to frame is flicker."""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clips


def difference_error(made: Clips, true: Clips) -> Float[np.ndarray, "b"]:
    """mean |(made_k - made_{k-1}) - (true_k - true_{k-1})| of each clip, in levels: 0 where an error stays the same
    from frame to frame. Errors: `UserError` for single frames."""
    if made.shape[1] < 2:
        raise UserError("frame differences of clips of one frame: give two frames or more")
    residual = made.astype(np.float64) - true
    return np.abs(np.diff(residual, axis=1)).mean(axis=(1, 2, 3, 4))
