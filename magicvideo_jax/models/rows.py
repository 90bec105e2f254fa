"""Sums over rows and pixels, and broadcasts to them, which are their gradients, as XLA computes them
fastest.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu


# Both are products with ones and each other's gradients. XLA simplifies the first to a broadcast.
# The second keeps XLA:CPU from fusing its input into a loop with long strides, which makes a
# training step a third faster.
def broadcast_rows(vector: Float[Array, "*b c"], rows: int) -> Float[Array, "*b r c"]:
    """Broadcast a vector to `rows` rows."""
    ones = _ones(vector.shape[:-1], rows, vector.dtype)
    return jnp.einsum("...r,...c->...rc", ones, vector, precision=jax.lax.Precision.HIGHEST)


def sum_rows(x: Float[Array, "*b r c"]) -> Float[Array, "*b c"]:
    """Sum over rows."""
    ones = _ones(x.shape[:-2], x.shape[-2], x.dtype)
    return jnp.einsum("...r,...rc->...c", ones, x, precision=jax.lax.Precision.HIGHEST)


def _ones(batch: tuple[int, ...], rows: int, dtype: DTypeLike) -> Float[Array, "*b r"]:
    # Ones of each image make a batched product. With the same ones for all XLA:CPU transposes the
    # images into one matrix first, and computes what they come from at strides that miss the cache.
    return jnp.ones((rows,) if is_traced_for_gpu() else (*batch, rows), dtype)


def broadcast_channels(
    vector: Float[Array, "c"], like: Float[Array, "*b c"]
) -> Float[Array, "*b c"]:
    """Broadcast a vector of channels to the shape and type of `like`."""
    return broadcast_rows(vector.astype(like.dtype), like.size // like.shape[-1]).reshape(
        like.shape
    )


def broadcast_pixels(
    vector: Float[Array, "*b c"], like: Float[Array, "*b h w d"]
) -> Float[Array, "*b h w c"]:
    """Broadcast a vector of each image to its pixels.

    On GPUs its gradient is summed over pixels, and then over images. XLA would sum over both at
    once, and transpose activations for it where frames lie between pixels and clips.
    """
    *_, h, w, _ = like.shape
    return broadcast_rows(materialise(vector), h * w).reshape(*vector.shape[:-1], h, w, -1)


def materialise(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Have a GPU write x and its gradient to memory, in their dtype: XLA neither fuses nor merges
    what is before with what is behind.
    """
    return jax.lax.optimization_barrier(x) if is_traced_for_gpu() else x


def add_bias(x: Float[Array, "*b h w c"], bias: Float[Array, "c"]) -> Float[Array, "*b h w c"]:
    """Add a bias of channels to pixels."""
    return (_add_bias_by_image if is_traced_for_gpu() else _add_bias)(x, bias)


def _add_bias(x: Float[Array, "*b h w c"], bias: Float[Array, "c"]) -> Float[Array, "*b h w c"]:
    return x + broadcast_channels(bias, x)


@jax.custom_vjp
def _add_bias_by_image(
    x: Float[Array, "*b h w c"], bias: Float[Array, "c"]
) -> Float[Array, "*b h w c"]:
    """The same; its gradient is summed over pixels, and then over images, in float32.
    `broadcast_pixels` would keep XLA from adding the bias in cuDNN's convolution.
    """
    return _add_bias(x, bias)


def _sum_by_image(bias: Array, g: Array) -> tuple[Array, Array]:
    of_images = jax.lax.optimization_barrier(g.astype(jnp.float32).sum((-3, -2)))
    return g, of_images.sum(tuple(range(of_images.ndim - 1))).astype(bias.dtype)


_add_bias_by_image.defvjp(lambda x, bias: (_add_bias(x, bias), bias), _sum_by_image)
