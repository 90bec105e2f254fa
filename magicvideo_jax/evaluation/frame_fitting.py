"""Frames made to the square that a network takes, as a protocol says."""

import math
from collections.abc import Callable

from jaxtyping import Array, Float

from magicvideo_jax.evaluation.protocols import EvaluationProtocol, FrameFit
from magicvideo_jax.evaluation.resizing import Frames, resize_half_pixel, resize_tf1

Squares = Float[Array, "*b side side c"]


def fit_frames(x: Frames, side: int, protocol: EvaluationProtocol) -> Squares:
    """Frames cropped and resized to `side` pixels, their values as they were."""
    if protocol.crop is not None:
        x = _centre(x, min(protocol.crop, *x.shape[-3:-1]))
    return _FITS[protocol.fit](x, side)


def _tf1(x: Frames, side: int) -> Squares:
    return resize_tf1(x, side, side)


def _half_pixel(x: Frames, side: int) -> Squares:
    return resize_half_pixel(x, side, side)


def _shorter_side(x: Frames, side: int) -> Squares:
    """VideoGPT's: the longer side is rounded up."""
    height, width = x.shape[-3:-1]
    tall, wide = (math.ceil(n * side / min(height, width)) for n in (height, width))
    return _centre(resize_half_pixel(x, tall, wide), side)


def _centre(x: Frames, side: int) -> Squares:
    top, left = ((n - side) // 2 for n in x.shape[-3:-1])
    return x[..., top : top + side, left : left + side, :]


_FITS: dict[FrameFit, Callable[[Frames, int], Squares]] = {
    FrameFit.TF1_SQUASH: _tf1,
    FrameFit.HALF_PIXEL_SQUASH: _half_pixel,
    FrameFit.SHORTER_SIDE: _shorter_side,
}
