"""Convolutions and max pools over clips, padded as TensorFlow's SAME: I3D's and C3D's.

A window of k along frames is k windows of 1: a convolution over (t, h, w) is a sum of convolutions over (h, w),
which XLA runs three times as fast on CPU; the maximum over a box is one over each axis in turn.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.rows import add_bias

Size = tuple[int, int, int]
"""Extents along (t, h, w)."""
_FRAMES = -4
"""Axis of frames in `*b t h w c`."""


class ClipConv(nnx.Module):
    """Convolution over (t, h, w) with a bias, in float32 and not in an accelerator's faster passes.

    Its parameters are zeros until weights are loaded: the networks made of it are not trained here.
    """

    def __init__(self, inputs: int, outputs: int, *, size: Size = (1, 1, 1), stride: int = 1):
        self.kernel = nnx.Param(jnp.zeros((*size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t2 h2 w2 o"]:
        kernel = self.kernel[...]
        taps = window_taps(x, _FRAMES, len(kernel), self.stride, fill=0.0)
        products = [self._of_frames(tap, plane) for tap, plane in zip(taps, kernel, strict=True)]
        return add_bias(sum(products[1:], products[0]), self.bias[...])

    def _of_frames(
        self, x: Float[Array, "b t h w i"], plane: Float[Array, "kh kw i o"]
    ) -> Float[Array, "b t h2 w2 o"]:
        if plane.shape[:2] == (1, 1) and self.stride == 1:
            return jnp.matmul(x, plane[0, 0], precision=jax.lax.Precision.HIGHEST)
        images = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            plane,
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return images.reshape(*x.shape[:2], *images.shape[1:])


def max_pool(
    x: Float[Array, "b t h w c"], size: Size, stride: Size
) -> Float[Array, "b t2 h2 w2 c"]:
    """Maximum over boxes of this size, whose padding never counts."""
    for axis, extent, step in zip((-4, -3, -2), size, stride, strict=True):
        x = reduce(jnp.maximum, window_taps(x, axis, extent, step, fill=-math.inf))
    return x


def window_taps(
    x: Float[Array, "*shape"], axis: int, size: int, stride: int, *, fill: float
) -> list[Float[Array, "*shape2"]]:
    """The first elements of all windows along an axis, their second elements, and so on.

    There are ceil(n / stride) windows, and `fill` stands in them beyond the ends, half of it before the first element,
    rounded down.
    """
    axis %= x.ndim
    count = -(-x.shape[axis] // stride)
    around = max((count - 1) * stride + size - x.shape[axis], 0)
    padding = [(0, 0)] * x.ndim
    padding[axis] = around // 2, around - around // 2
    x = jnp.pad(x, padding, constant_values=fill)
    end = (count - 1) * stride + 1
    return [jax.lax.slice_in_dim(x, k, k + end, stride, axis) for k in range(size)]
