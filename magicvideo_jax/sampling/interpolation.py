"""Frame interpolation: k keyframes to 4 (k - 1) + 1 frames.

LaVie's network (2309.15103, section 3.3) denoises all frames anew, given beside each the latents of
the nearest keyframe:

    given_j = key_i,   i = floor((j + 1) / 4)                                 (1)

MagicVideo's samples what lies between two neighbours x^0 and x^n. What it gets wrong of these, most
of it the loss of its auto-encoder, is taken off the frames between them:

    y^i = s^i + (1 - i/n) (x^0 - s^0) + i/n (x^n - s^n)                       (2)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

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


def between_ends(
    samples: UInt8[np.ndarray, "b t h w 3"], ends: UInt8[np.ndarray, "b 2 h w 3"]
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Samples of short clips with the errors of their first and last frame taken off all (eq. 2);
    these two become the `ends`.
    """
    share = np.linspace(0, 1, samples.shape[1])[None, :, None, None, None]
    error = ends.astype(np.float32) - samples[:, [0, -1]]
    frames = samples + (1 - share) * error[:, :1] + share * error[:, 1:]
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)
