"""Bicubic resizing of frames by whole factors: how small pictures are made of large ones, and the
large ones that any upscaler has to beat."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from magicvideo_jax.core.pixels import to_float, to_uint8


def shrink(pixels: UInt8[Array, "*b h w 3"], factor: int) -> UInt8[Array, "*b h2 w2 3"]:
    """Frames of 1 / `factor` of the height and width: bicubic, antialiased."""
    *batch, h, w, c = pixels.shape
    return _resized(pixels, (*batch, h // factor, w // factor, c))


def enlarge(pixels: UInt8[Array, "*b h w 3"], factor: int) -> UInt8[Array, "*b h2 w2 3"]:
    """Frames of `factor` times the height and width: bicubic."""
    *batch, h, w, c = pixels.shape
    return _resized(pixels, (*batch, h * factor, w * factor, c))


def _resized(
    pixels: UInt8[Array, "*b h w 3"], shape: tuple[int, ...]
) -> UInt8[Array, "*b h2 w2 3"]:
    x = to_float(jnp.asarray(pixels))
    return to_uint8(jax.image.resize(x, shape, method="cubic", antialias=True))
