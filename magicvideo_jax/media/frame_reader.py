"""Frames of clip files, chosen by the time they are shown at; one frame in memory at a time.

A `UserError` says why something cannot be had and leaves the file's name to the caller: a data set
keeps these reasons, and is the same wherever it is made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.framing import FrameSize, RGBFrame
from magicvideo_jax.media.movie_files import MOVIES, movie_frames, movie_size, movie_timeline
from magicvideo_jax.media.picture_files import (
    PICTURES,
    picture_frames,
    picture_size,
    picture_timeline,
)
from magicvideo_jax.media.timeline import Timeline

ENDINGS = MOVIES + PICTURES
"""File name endings of clips; a still picture is a clip of one frame."""


def read_timeline(path: Path) -> Timeline:
    """Times of all frames of a video or picture file. Errors: `UserError` with the reason."""
    return picture_timeline(path) if _is_picture(path) else movie_timeline(path)


def frame_size(path: Path) -> FrameSize:
    """Height and width of a file's frames as they are stored. Errors: `UserError` with the reason."""
    return picture_size(path) if _is_picture(path) else movie_size(path)


def read_frames(
    path: Path, timeline: Timeline, which: Int[np.ndarray, "t"], sizes: Sequence[FrameSize]
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of these ascending indices, upright, resized and cropped.

    The target is the one of `sizes` whose aspect ratio is nearest to the clip's. Frames are resized
    to cover it (by averages where that shrinks them) and cropped around the centre.

    Errors: `UserError` where a frame cannot be decoded.
    """
    attempts = (
        [picture_frames(path, which, sizes)]
        if _is_picture(path)
        # Again from the start where the key frame before the first does not lead to all of them.
        else [movie_frames(path, timeline, which, sizes, seeks=seeks) for seeks in (True, False)]
    )
    frames: dict[int, RGBFrame] = {}
    for attempt in attempts:
        frames = dict(attempt)
        if which[-1] in frames:
            return np.stack([frames[number] for number in which])
    missing = next(int(wanted) for wanted in which if wanted not in frames)
    raise UserError(f"damaged: frame {missing} of {len(timeline.moments)} cannot be decoded")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES
