"""Frame interpolation (LaVie 2309.15103, section 3.3): k keyframes to 4 (k - 1) + 1 frames.

The network denoises all frames anew, given beside each the latents of the nearest keyframe:

    given_j = key_i,   i = floor((j + 1) / 4)                                 (1)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FRAMES_PER_KEYFRAME = 4
"""Distance of two keyframes in the result."""


def interpolated_frames(keyframes: int) -> int:
    """Number of frames that so many keyframes become: 61 for 16."""
    return FRAMES_PER_KEYFRAME * (keyframes - 1) + 1


def copied_keyframes(z: Float[Array, "b k h w c"]) -> Float[Array, "b t h w c"]:
    """Latents of keyframes, copied to all frames (eq. 1): 3 times the first, 4 times the next, and
    twice the last."""
    frames = np.arange(interpolated_frames(z.shape[1]))
    return jnp.take(z, (frames + 1) // FRAMES_PER_KEYFRAME, axis=1)
