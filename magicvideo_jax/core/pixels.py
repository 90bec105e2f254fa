"""Pixels as numbers: bytes 0..255 <-> floats in [-1, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_float(pixels: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map 0..255 to [-1, 1], in float32."""
    return pixels.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Map [-1, 1] to 0..255, rounded; values outside are clipped. The inverse of `to_float`."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
