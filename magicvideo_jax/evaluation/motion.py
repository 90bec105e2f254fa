"""Amount of motion and flicker of clips by block matching, without labels or a learned model.

Differences of neighbouring frames are large for motion, but also for noise and flicker. `motion`
therefore searches for the displacement of each block, and counts it only where it explains most of
the block's change; for noise, changes of brightness and still blocks no displacement does.
`flicker` measures the change where nothing moves.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clip

REDUCED_SIDE = 64
"""Approximate shorter side in pixels to which larger frames are reduced before matching."""
BLOCK_SIDE = 8
"""Side of a block in pixels."""
SEARCH_RADIUS = 10
"""Largest displacement along each axis, in pixels of the reduced frame."""
MAX_RESIDUAL = 0.4
"""A displacement counts where it leaves at most this fraction of a block's change."""
TIE_TOLERANCE = 0.1
"""The shortest displacement wins among those whose residual exceeds the least by at most this
fraction of the change.

Without it, a distant block often fits by chance a little better than the true one at a subpixel
displacement."""
MOVING = 0.01
"""Motion above which a clip is said to move, in pixels per frame of a clip whose shorter side is `REDUCED_SIDE`: less
than of any drawn clip that is not at rest, more than of a still one under noise of 40 levels."""
MIN_CHANGE = 4.0
"""Blocks whose mean change or contrast is below this level count as still."""


def motion_metrics(clips: Iterable[Clip]) -> Iterator[tuple[str, float]]:
    """Yield `(name, mean over the clips)`: frame_difference and flicker in levels, motion in
    pixels per frame, and moving_share, the share of clips that move by more than `MOVING`.

    Clips that are too short for a metric are left out of its mean; a metric without any clip is
    left out.
    """
    rows = [(len(clip), clip) for clip in clips]
    for measure, shortest in ((frame_difference, 2), (motion, 2), (flicker, 3)):
        values = [measure(clip) for length, clip in rows if length >= shortest]
        if values:
            yield measure.__name__, float(np.mean(values))
        if values and measure is motion:
            sides = [min(clip.shape[1:3]) for length, clip in rows if length >= shortest]
            yield "moving_share", float(np.mean(np.divide(values, sides) > MOVING / REDUCED_SIDE))


def frame_difference(clip: Clip) -> float:
    """Mean of |x_{i+1} - x_i|, in levels 0..255."""
    return float(np.mean(np.abs(np.diff(clip.astype(np.float32), axis=0))))


def flicker(clip: Clip) -> float:
    """Median over pixels of the mean |x_i - (x_{i-1} + x_{i+1}) / 2|, in levels 0..255.

    The median ignores motion that covers less than half of the frame.
    """
    x = clip.astype(np.float32)
    return float(np.median(np.mean(np.abs(x[1:-1] - (x[:-2] + x[2:]) / 2), axis=(0, -1))))


def motion(clip: Clip) -> float:
    """Mean length of all blocks' displacements, in pixels per frame.

    A camera that pans by 2 pixels per frame gives 2; a shape that moves as fast and whose outline
    crosses a tenth of the blocks gives about 0.2. Frames an eighth of the clip apart are compared,
    so that slow motion adds up to whole pixels. Unrelated smooth frames match by chance and give 1
    to 3; their flicker is high.
    """
    small, pixel = downscale_to_grey(clip)
    gap = max(1, len(clip) // 8)
    frames = small[::gap]
    return float(np.mean(displacements(frames[:-1], frames[1:]))) * pixel / gap


def displacements(
    earlier: Float[np.ndarray, "t h w"], later: Float[np.ndarray, "t h w"]
) -> Float[np.ndarray, "t rows columns"]:
    """Length of each block's displacement, by full search for the least mean absolute difference.

    Blocks without contrast, which match anywhere, count as still.
    """
    reach = SEARCH_RADIUS
    shifts = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    shifts.sort(key=lambda shift: np.hypot(*shift))
    _, height, width = later.shape
    padded = np.pad(earlier, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    shifted = (
        padded[:, reach + y : reach + y + height, reach + x : reach + x + width] for y, x in shifts
    )
    residual = np.stack([block_means(np.abs(later - frame)) for frame in shifted])
    change = residual[0]  # at displacement 0
    contrast = np.sqrt(np.maximum(block_means(later**2) - block_means(later) ** 2, 0))
    least = np.min(residual, axis=0)
    moved = (change > MIN_CHANGE) & (contrast > MIN_CHANGE) & (least < MAX_RESIDUAL * change)
    # The first is the shortest, because shifts are sorted by length.
    nearest = np.argmax(residual <= least + TIE_TOLERANCE * change, axis=0)
    return np.where(moved, np.hypot(*np.array(shifts, np.float32).T)[nearest], 0)


def downscale_to_grey(clip: Clip) -> tuple[Float[np.ndarray, "t h2 w2"], float]:
    """Grey frames reduced to a shorter side of about `REDUCED_SIDE`, and the factor of the
    reduction.
    """
    grey = clip.astype(np.float32).mean(axis=-1)
    factor = max(1, round(min(grey.shape[1:]) / REDUCED_SIDE))
    return (block_means(grey, factor) if factor > 1 else grey), float(factor)


def block_means(
    frames: Float[np.ndarray, "t h w"], side: int = BLOCK_SIDE
) -> Float[np.ndarray, "t rows columns"]:
    """Means over squares of this side. Incomplete rows and columns at the end are dropped."""
    # Two matrix products, because this is the inner loop.
    rows, columns = (
        np.kron(np.eye(n // side, dtype=np.float32), np.full(side, 1 / side))
        for n in frames.shape[1:]
    )
    cropped = frames[:, : rows.shape[1], : columns.shape[1]]
    return rows.astype(np.float32) @ cropped @ columns.astype(np.float32).T
