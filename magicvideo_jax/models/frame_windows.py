"""Attention over a long clip's frames in windows (FreeNoise, Qiu et al. 2310.15169, section 3).

A residual part runs on the windows [i, i + c), i = 0, d, 2 d .., of which the last ends with the
clip. Where windows overlap, its outputs are averaged by weights that fall from a window's middle:

    weight[j] = min(j + 1, c - j),   j = 0 .. c-1                                                             (1)

c is at most the number of frames that the model was trained on, d the distance of windows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

WINDOW_STRIDE = 4
"""Distance of windows (d), the paper's for c = 16."""


def free_noise_windows(
    frames: int, *, context: int, stride: int = WINDOW_STRIDE
) -> tuple[Int[np.ndarray, "n"], Float32[np.ndarray, "n c"]]:
    """First frame of each window of `context` frames, and its outputs' shares in the average.

    Shares of a frame sum to 1. A clip of at most `context` frames has one window.
    """
    size, stride = min(context, frames), min(context, stride)
    first = np.unique(np.minimum(np.arange(0, frames - size + stride, stride), frames - size))
    weights = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float64)
    inside = first[:, None] + np.arange(size)
    total = np.bincount(inside.ravel(), np.tile(weights, len(first)), minlength=frames)
    return first, (weights / total[inside]).astype(np.float32)


def over_windows(
    apply: Callable[[Float[Array, "b p f c"]], Float[Array, "b p f c"]],
    y: Float[Array, "b p t c"],
    *,
    context: int | None,
) -> Float[Array, "b p t c"]:
    """Average of `apply` over windows of frames; `apply` itself for a clip that fits one.

    Windows run one after the other, so that they need no more memory than one.
    """
    if context is None or y.shape[2] <= context:
        return apply(y)

    def add(
        total: Float[Array, "b p t c"], window: tuple[Int[Array, ""], Float[Array, "f"]]
    ) -> tuple[Float[Array, "b p t c"], None]:
        first, shares = window
        part = apply(jax.lax.dynamic_slice_in_dim(y, first, context, axis=2))
        part = part.astype(jnp.float32) * shares[None, None, :, None]
        part += jax.lax.dynamic_slice_in_dim(total, first, context, axis=2)
        return jax.lax.dynamic_update_slice_in_dim(total, part, first, axis=2), None

    first, shares = free_noise_windows(y.shape[2], context=context)
    windows = jnp.asarray(first), jnp.asarray(shares)
    total, _ = jax.lax.scan(add, jnp.zeros(y.shape, jnp.float32), windows)
    return total.astype(y.dtype)
