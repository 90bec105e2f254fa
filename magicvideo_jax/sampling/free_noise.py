"""FreeNoise (Qiu et al. 2310.15169): long clips from a model of short ones, by noise and attention.

Noise beyond the first window is not new. For i = c, c + d, c + 2 d ..

    noise[i : i + d] = random permutation of noise[i - c : i - c + d]                                         (1)

so that every window has nearly the noise of the first, in another order: content stays, motion
varies. Temporal attention runs on the windows [i, i + c), i = 0, d, 2 d .., of which the last ends
with the clip, and averages its outputs by weights that fall from a window's middle:

    weight[j] = min(j + 1, c - j),   j = 0 .. c-1                                                             (2)

c is the number of frames that the model was trained on, d the distance of windows.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from magicvideo_jax.core.keys import subkey

STRIDE = 4
"""Distance of windows (d), the paper's for c = 16."""


def free_noise(
    key: PRNGKeyArray, shape: tuple[int, ...], *, context: int, stride: int = STRIDE
) -> Float[Array, "..."]:
    """Noise of `shape` (t ...) whose frames after the first `context` permute earlier ones (eq. 1)."""
    noise = jax.random.normal(subkey(key, "noise"), (min(context, shape[0]), *shape[1:]))
    order = noise_frames(subkey(key, "noise order"), shape[0], context=context, stride=stride)
    return jnp.take(noise, order, axis=0)


def noise_frames(
    key: PRNGKeyArray, frames: int, *, context: int, stride: int = STRIDE
) -> Int[Array, "t"]:
    """Which of the first `context` frames each frame has its noise from (eq. 1)."""
    stride = min(stride, context)
    blocks = max(0, -(-(frames - context) // stride))

    def permute(source: Int[Array, "f"], block: Int[Array, ""]) -> tuple[Int[Array, "f"], None]:
        start = block * stride
        earlier = jax.lax.dynamic_slice_in_dim(source, start, stride)
        order = jax.random.permutation(jax.random.fold_in(key, block), earlier)
        return jax.lax.dynamic_update_slice_in_dim(source, order, start + context, 0), None

    source = jnp.arange(context + blocks * stride)
    source, _ = jax.lax.scan(permute, source, jnp.arange(blocks))
    return source[:frames]


def free_noise_windows(
    frames: int, *, context: int, stride: int = STRIDE
) -> tuple[Int[np.ndarray, "n"], Float32[np.ndarray, "n c"]]:
    """First frame of each attention window, and the share of its outputs in the average (eq. 2).

    Shares of a frame sum to 1. `context` is at most `frames`; other clips have one window.
    """
    size = min(context, frames)
    first = np.minimum(np.arange(0, frames - size + stride, stride), frames - size)
    first = np.unique(first)
    weights = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float64)
    inside = first[:, None] + np.arange(size)
    total = np.bincount(inside.ravel(), np.tile(weights, len(first)), minlength=frames)
    return first, (weights / total[inside]).astype(np.float32)
