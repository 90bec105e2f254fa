"""Sizes of frames: what is accepted, which target a clip gets, and the crop that fills it."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError

LONGEST_SIDE, MOST_PIXELS = 2**14, 2**26
"""Limits of a source frame, checked before it is decoded."""

RGBFrame = UInt8[np.ndarray, "h w 3"]
FrameSize = tuple[int, int]
"""Height and width."""


def check_frame_size(height: int, width: int) -> None:
    """Raise `UserError` for a frame beyond `LONGEST_SIDE` or `MOST_PIXELS`."""
    if not (0 < min(height, width) <= max(height, width) <= LONGEST_SIDE) or (
        height * width > MOST_PIXELS
    ):
        raise UserError(
            f"frames of {width} x {height} pixels: at most {LONGEST_SIDE} a side and "
            f"{MOST_PIXELS:,} in all"
        )


def nearest_size(sizes: Sequence[FrameSize], height: int, width: int) -> FrameSize:
    """The size whose aspect ratio is nearest to height and width; the first of equals."""
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] * height / width)))


def covering(height: int, width: int, *, target_height: int, target_width: int) -> tuple[int, int]:
    """The smallest size of the same aspect ratio that covers the target."""
    scale = max(target_height / height, target_width / width)
    return max(target_height, round(height * scale)), max(target_width, round(width * scale))


def cropped(frame: UInt8[np.ndarray, "_h _w 3"], height: int, width: int) -> RGBFrame:
    """The centre of a frame."""
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
