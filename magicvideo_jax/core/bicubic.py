"""Bicubic resizing of frames by whole factors: how small pictures are made of large ones, and the
large ones that any upscaler has to beat."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from magicvideo_jax.core.pixels import to_float, to_uint8


def shrink(pixels: UInt8[Array, "*b h w 3"], factor: int) -> UInt8[Array, "*b h2 w2 3"]:
    """Frames of 1 / `factor` of the height and width: bicubic, antialiased."""
    *batch, h, w, c = pixels.shape
    x = to_float(jnp.asarray(pixels))
    return to_uint8(_resized(x, (*batch, h // factor, w // factor, c)))


def enlarge(pixels: UInt8[Array, "*b h w 3"], factor: int) -> UInt8[Array, "*b h2 w2 3"]:
    """Frames of `factor` times the height and width: bicubic."""
    return to_uint8(enlarge_exactly(to_float(jnp.asarray(pixels)), factor))


def enlarge_exactly(x: Float[Array, "*b h w 3"], factor: int) -> Float[Array, "*b h2 w2 3"]:
    """The same of pixels that are no levels, and unrounded."""
    *batch, h, w, c = x.shape
    return _resized(x, (*batch, h * factor, w * factor, c))


def _resized(x: Float[Array, "*b h w 3"], shape: tuple[int, ...]) -> Float[Array, "*b h2 w2 3"]:
    return jax.image.resize(x, shape, method="cubic", antialias=True)
