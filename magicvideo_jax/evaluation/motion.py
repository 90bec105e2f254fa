"""How much do clips move? Of any clips, without labels or a learned judge.

The difference of neighbouring frames is large for motion, but for noise and flicker too. So `motion` asks where each
block of a frame went: it counts a displacement only where that explains most of the block's change, which for noise,
changing brightness and stillness no displacement does. `flicker` is the rest: what changes where nothing moves.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

Frames = UInt8[np.ndarray, "t h w 3"]

HEIGHT = 64
"""Pixels of the shorter side at which blocks are compared: larger frames are averaged down to about this."""
BLOCK = 8
REACH = 12
"""The farthest that a block is looked for, along each axis and in pixels of the reduced frame."""
EXPLAINED = 0.5
"""A displacement counts where it leaves at most this share of a block's change."""
VISIBLE = 4.0
"""Blocks whose mean change is below this (of 255) are taken for still."""


def run(clips: Iterable[Frames]) -> Iterator[tuple[str, float]]:
    """Yields `(name, mean over the clips)`: frame_difference and flicker in 0..255, motion in pixels per frame. Clips
    too short for a measure are left out of its mean, and a measure without a clip is absent."""
    rows = [(len(clip), clip) for clip in clips]
    for measure, shortest in ((frame_difference, 2), (motion, 2), (flicker, 3)):
        values = [measure(clip) for length, clip in rows if length >= shortest]
        if values:
            yield measure.__name__, float(np.mean(values))


def frame_difference(clip: Frames) -> float:
    """The mean of |x_{i+1} - x_i|, in 0..255."""
    return float(np.mean(np.abs(np.diff(clip.astype(np.float32), axis=0))))


def flicker(clip: Frames) -> float:
    """The median pixel's mean of |x_i - (x_{i-1} + x_{i+1}) / 2|, in 0..255: of three frames, how far the middle one
    stands out. What moves over less than half of the picture does not change the median."""
    x = clip.astype(np.float32)
    return float(np.median(np.mean(np.abs(x[1:-1] - (x[:-2] + x[2:]) / 2), axis=(0, -1))))


def motion(clip: Frames) -> float:
    """The mean length of all blocks' displacements, in pixels per frame: a shape of a tenth of the picture that moves
    2 pixels a frame makes about 0.2, a camera that pans by 2 pixels a frame makes 2.

    Frames are compared over a quarter of the clip, so that slow motion adds up to whole pixels.
    """
    small, scale = reduced(clip)
    gap = max(1, (len(clip) - 1) // 4)
    lengths = [displacements(one, other) for one, other in zip(small[:-gap], small[gap:], strict=True)]
    return float(np.mean(lengths)) * scale / gap


def displacements(one: Float[np.ndarray, "h w"], other: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows columns"]:
    """How far each block of `other` has come from its place in `one`: full search for the least absolute difference."""
    shifts = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    shifts.sort(key=lambda shift: np.hypot(*shift))  # argmin takes the first, hence the shortest, of equals
    height, width = one.shape
    padded = np.pad(one, REACH, mode="edge")
    left = np.stack(
        [
            _block_means(np.abs(other - padded[REACH + y : REACH + y + height, REACH + x : REACH + x + width]))
            for y, x in shifts
        ]
    )
    best = np.argmin(left, axis=0)
    still = left[0]
    moved = (np.min(left, axis=0) < EXPLAINED * still) & (still > VISIBLE)
    return np.where(moved, np.hypot(*np.array(shifts, np.float32).T)[best], 0)


def reduced(clip: Frames) -> tuple[Float[np.ndarray, "t h2 w2"], float]:
    """Grey frames whose sides are whole blocks, averaged down to a shorter side of about `HEIGHT`, and how many pixels
    of the clip one of theirs is."""
    grey = np.mean(clip, axis=-1, dtype=np.float32)
    factor = max(1, round(min(grey.shape[1:]) / HEIGHT))
    return _block_means(grey, factor), float(factor)


def _block_means(image: Float[np.ndarray, "*b h w"], side: int = BLOCK) -> Float[np.ndarray, "*b h2 w2"]:
    """Means of squares; rows and columns that fill none are left out."""
    rows, columns = image.shape[-2] // side, image.shape[-1] // side
    whole = image[..., : rows * side, : columns * side]
    return whole.reshape(*image.shape[:-2], rows, side, columns, side).mean(axis=(-3, -1))
