"""Pixels: levels 0..255 <-> floats in [-1, 1], and the peak signal-to-noise ratio of either."""

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

Errors = TypeVar("Errors", Array, np.ndarray)


def to_float(pixels: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map levels 0..255 of any type to [-1, 1], in float32."""
    return pixels.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Map [-1, 1] to 0..255, rounded. Values outside are clipped. The inverse of `to_float`."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def to_unit(pixels: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map levels 0..255 of any type to [0, 1], in float32."""
    return pixels.astype(jnp.float32) / 255


def from_unit(x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Map [0, 1] to 0..255, rounded. Values outside are clipped. The inverse of `to_unit`."""
    return jnp.round(255 * jnp.clip(x, 0, 1)).astype(jnp.uint8)


def psnr_of_mse(mse: Errors, *, peak: float) -> Errors:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mse), for JAX and numpy arrays.

    `peak` is the range of the pixels: 255 for levels, 2 for [-1, 1]. An error of 0 gives infinity.
    """
    if isinstance(mse, np.ndarray):
        with np.errstate(divide="ignore"):
            return 10 * np.log10(peak**2 / mse)
    return 10 * jnp.log10(peak**2 / mse)
