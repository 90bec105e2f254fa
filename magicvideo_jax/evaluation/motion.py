"""How much do clips move? Of any clips, without labels or a learned judge.

The difference of neighbouring frames is large for motion, but for noise and flicker too. So `motion` asks where each
block of a frame went: it counts a displacement only where that explains most of the block's change, which for noise,
changing brightness and stillness no displacement does. `flicker` is the rest: what changes where nothing moves.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clip

REDUCED_SIDE = 64
"""Pixels of the shorter side at which blocks are compared: larger frames are averaged down to about this."""
BLOCK_SIDE = 8
SEARCH_RADIUS = 10
"""The farthest that a block is looked for, along each axis and in pixels of the reduced frame."""
MAX_RESIDUAL = 0.4
"""A displacement counts where it leaves at most this share of a block's change."""
TIE_TOLERANCE = 0.1
"""Of displacements that leave this share of a block's change more than the best does, the shortest is taken: between
whole pixels, something far away often fits by chance a little better than the truth."""
MIN_CHANGE = 4.0
"""Blocks whose mean change, or whose contrast, is below this (of 255) are taken for still."""


def motion_metrics(clips: Iterable[Clip]) -> Iterator[tuple[str, float]]:
    """Yields `(name, mean over the clips)`: frame_difference and flicker in 0..255, motion in pixels per frame. Clips
    too short for a measure are left out of its mean, and a measure without a clip is absent."""
    rows = [(len(clip), clip) for clip in clips]
    for measure, shortest in ((frame_difference, 2), (motion, 2), (flicker, 3)):
        values = [measure(clip) for length, clip in rows if length >= shortest]
        if values:
            yield measure.__name__, float(np.mean(values))


def frame_difference(clip: Clip) -> float:
    """The mean of |x_{i+1} - x_i|, in 0..255."""
    return float(np.mean(np.abs(np.diff(clip.astype(np.float32), axis=0))))


def flicker(clip: Clip) -> float:
    """The median pixel's mean of |x_i - (x_{i-1} + x_{i+1}) / 2|, in 0..255: of three frames, how far the middle one
    stands out. What moves over less than half of the picture does not change the median."""
    x = clip.astype(np.float32)
    return float(np.median(np.mean(np.abs(x[1:-1] - (x[:-2] + x[2:]) / 2), axis=(0, -1))))


def motion(clip: Clip) -> float:
    """The mean length of all blocks' displacements, in pixels per frame: a shape whose outline crosses a tenth of the
    blocks and moves 2 pixels a frame makes about 0.2, a camera that pans over a scene by 2 pixels a frame makes 2.

    Frames are compared over an eighth of the clip, so that slow motion adds up to whole pixels. Smooth frames that have
    nothing to do with each other are matched by chance, and read 1 to 3: a high flicker tells them.
    """
    small, pixel = downscale_to_grey(clip)
    gap = max(1, len(clip) // 8)
    frames = small[::gap]
    return float(np.mean(displacements(frames[:-1], frames[1:]))) * pixel / gap


def displacements(
    earlier: Float[np.ndarray, "t h w"], later: Float[np.ndarray, "t h w"]
) -> Float[np.ndarray, "t rows columns"]:
    """How far each block of the later frames has come: full search for the least mean absolute difference. Plain
    blocks, which are alike everywhere, are passed over."""
    reach = SEARCH_RADIUS
    shifts = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    shifts.sort(key=lambda shift: np.hypot(*shift))
    _, height, width = later.shape
    padded = np.pad(earlier, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    shifted = (
        padded[:, reach + y : reach + y + height, reach + x : reach + x + width] for y, x in shifts
    )
    left = np.stack([block_means(np.abs(later - frame)) for frame in shifted])
    change = left[0]
    contrast = np.sqrt(np.maximum(block_means(later**2) - block_means(later) ** 2, 0))
    least = np.min(left, axis=0)
    moved = (change > MIN_CHANGE) & (contrast > MIN_CHANGE) & (least < MAX_RESIDUAL * change)
    nearest = np.argmax(
        left <= least + TIE_TOLERANCE * change, axis=0
    )  # the first, since shifts stand by their length
    return np.where(moved, np.hypot(*np.array(shifts, np.float32).T)[nearest], 0)


def downscale_to_grey(clip: Clip) -> tuple[Float[np.ndarray, "t h2 w2"], float]:
    """Grey frames, averaged down to a shorter side of about `HEIGHT`, and how many pixels one of theirs stands for."""
    grey = clip.astype(np.float32).mean(axis=-1)
    factor = max(1, round(min(grey.shape[1:]) / REDUCED_SIDE))
    return (block_means(grey, factor) if factor > 1 else grey), float(factor)


def block_means(
    frames: Float[np.ndarray, "t h w"], side: int = BLOCK_SIDE
) -> Float[np.ndarray, "t rows columns"]:
    """Means over squares; rows and columns that fill none are left out. Two matrix products: this is the inner loop."""
    rows, columns = (
        np.kron(np.eye(n // side, dtype=np.float32), np.full(side, 1 / side))
        for n in frames.shape[1:]
    )
    whole = frames[:, : rows.shape[1], : columns.shape[1]]
    return rows.astype(np.float32) @ whole @ columns.astype(np.float32).T
