"""Recognition of shape, colour and motion in a clip of one bright shape on a dark background,
without learning.

Brightness separates the shape from its background. The mean colour inside is compared with the
palette, face-on views are compared with the outline of each shape, and the path, size and
proportions over the frames determine the motion. Blur and noise are tolerated, because generated
clips have them.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.data.drawn.drawing import coverage
from magicvideo_jax.data.drawn.scene import CANVAS, HEADING, PAINT, Colour, Motion, Pose, Shape

MIN_CONTRAST = 60.0
"""Minimum difference in level between the brightest parts and the background of a clip that shows
a shape."""
BEST_FRAMES = 6
"""Number of frames, the largest and most face-on, from which a shape is recognised."""
VIEW_SIDE = 27
"""Side of a normalised view in pixels. It spans 2.7 square roots of the shape's area around its
centre of mass."""


class Reading(NamedTuple):
    """Recognised content of a clip.

    All are None for an empty clip, `motion` also for one or two frames.
    """

    shape: Shape | None
    colour: Colour | None
    motion: Motion | None


class Moments(NamedTuple):
    """Area, centre of mass and standard deviation about it per frame, in pixels of a canvas 64
    wide.
    """

    area: Float[np.ndarray, "t"]
    x: Float[np.ndarray, "t"]
    y: Float[np.ndarray, "t"]
    wide: Float[np.ndarray, "t"]
    high: Float[np.ndarray, "t"]


def read_clip(clip: UInt8[np.ndarray, "t h w c"]) -> Reading:
    """Recognise the content of a clip, or shape and colour of a single frame."""
    covered = segment_shape(clip)
    if covered is None:
        return Reading(None, None, None)
    moments = measure_moments(covered)
    is_visible = moments.area > 0.05 * np.max(moments.area)
    covered, moments = covered[is_visible], Moments(*(value[is_visible] for value in moments))
    motion = read_motion(moments) if len(moments.area) > 2 else None
    return Reading(read_shape(covered, moments), read_colour(clip[is_visible], covered), motion)


def segment_shape(clip: UInt8[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w"] | None:
    """Coverage of each pixel by the shape in [0, 1], or None where nothing stands out.

    It is the brightest channel, relative to the background and the brightest parts.
    """
    value = np.max(clip, axis=-1).astype(np.float32)
    low, high = np.median(value), np.percentile(value, 99.5)
    if high - low < MIN_CONTRAST:
        return None
    covered = np.clip((value - low) / (high - low), 0, 1)
    return np.where(covered < 0.3, 0, covered).astype(np.float32)


def measure_moments(covered: Float[np.ndarray, "t h w"]) -> Moments:
    """Moments of the coverage of every frame."""
    scale = CANVAS / covered.shape[-1]
    x, y = (
        scale * (np.arange(side, dtype=np.float32) + 0.5)
        for side in (covered.shape[-1], covered.shape[-2])
    )
    columns, rows = covered.sum(axis=-2), covered.sum(axis=-1)
    mass = np.maximum(columns.sum(axis=-1), 1e-6)
    middle_x, middle_y = columns @ x / mass, rows @ y / mass
    wide = np.sqrt(np.sum(columns * (x - middle_x[:, None]) ** 2, axis=-1) / mass + 1e-3)
    high = np.sqrt(np.sum(rows * (y - middle_y[:, None]) ** 2, axis=-1) / mass + 1e-3)
    return Moments(mass * scale**2, middle_x, middle_y, wide, high)


def read_colour(clip: UInt8[np.ndarray, "t h w c"], covered: Float[np.ndarray, "t h w"]) -> Colour:
    """Colour of the palette that is nearest to the mean of fully covered pixels."""
    inside = covered > 0.8
    mean = clip[inside if np.any(inside) else covered > 0].astype(np.float32).mean(axis=0)
    return min(
        Colour, key=lambda colour: float(np.linalg.norm(mean - np.array(PAINT[colour], np.float32)))
    )


def read_motion(moments: Moments) -> Motion:
    """Motion of a shape: changing proportions mean turning, changing size means growing or
    shrinking.

    All other motions follow from the path of the centre.
    """
    frames = np.linspace(-0.5, 0.5, len(moments.area))
    proportion = np.log(moments.wide / moments.high)
    if np.std(proportion) > 0.17:
        return Motion.TURNING
    growth = np.polyfit(frames, np.log(moments.area), 1)[
        0
    ]  # twice the log of the size's ratio, last to first frame
    if abs(growth) > 0.45:
        return Motion.GROWING if growth > 0 else Motion.SHRINKING

    path = np.stack([moments.x, moments.y]) - np.array([[moments.x.mean()], [moments.y.mean()]])
    if np.max(np.ptp(path, axis=1)) < 4:
        return Motion.STILL
    velocity = np.polyfit(frames, path.T, 1)[0]
    straight = velocity[:, None] * frames
    if np.mean((path - straight) ** 2) < 0.15 * np.mean(path**2):
        facing = {motion: float(np.dot(heading, velocity)) for motion, heading in HEADING.items()}
        facing[Motion.DIAGONAL] = float(
            np.sum(np.abs(velocity)) * np.sqrt(0.5)
        )  # towards any corner
        return max(facing, key=lambda motion: facing[motion])
    across, along = np.std(path, axis=1)
    return Motion.CIRCLING if across > 0.4 * along else Motion.BOUNCING


def read_shape(covered: Float[np.ndarray, "t h w"], moments: Moments) -> Shape:
    """Shape whose best view overlaps most, averaged over the `BEST_FRAMES` best frames."""
    face_on = moments.area * np.minimum(moments.wide / np.max(moments.wide), 1) ** 2
    best = np.argsort(-face_on)[:BEST_FRAMES]
    views = normalised_views(covered[best], Moments(*(value[best] for value in moments)))
    scores = {}
    for shape in Shape:
        known = known_views(shape)
        intersection = np.minimum(views[:, None], known[None]).sum(axis=(-1, -2))
        union = np.maximum(views[:, None], known[None]).sum(axis=(-1, -2))
        scores[shape] = float(np.mean(np.max(intersection / union, axis=1)))
    return max(scores, key=lambda shape: scores[shape])


def normalised_views(
    covered: Float[np.ndarray, "t h w"], moments: Moments
) -> Float[np.ndarray, "t s s"]:
    """Frames resampled around their centres of mass to one apparent size: `VIEW_SIDE` x
    `VIEW_SIDE`, bilinear.
    """
    scale, (height, width) = covered.shape[-1] / CANVAS, covered.shape[-2:]
    grid = 2.7 * (np.arange(VIEW_SIDE) / (VIEW_SIDE - 1) - 0.5)
    reach = np.sqrt(moments.area)[:, None] * grid
    x, y = (np.clip((middle[:, None] + reach) * scale - 0.5, 0, side - 1.001)
            for middle, side in ((moments.x, width), (moments.y, height)))  # fmt: skip
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (x - left)[:, None, :], (y - top)[:, :, None]
    frame, row, column = np.arange(len(covered))[:, None, None], top[:, :, None], left[:, None, :]
    upper = covered[frame, row, column] * (1 - right) + covered[frame, row, column + 1] * right
    lower = (
        covered[frame, row + 1, column] * (1 - right) + covered[frame, row + 1, column + 1] * right
    )
    return (upper * (1 - down) + lower * down).astype(np.float32)


@cache
def known_views(shape: Shape) -> Float[np.ndarray, "v s s"]:
    """Normalised reference views of a shape: tilted to either side, turned a little, and from the
    back.
    """
    drawn = [
        coverage(
            shape,
            tilt,
            Pose(np.array([32.0]), np.array([32.0]), np.array([14.0]), np.array([facing])),
            size=64,
        )
        for tilt in np.linspace(-0.35, 0.35, 8)
        for facing in (1.0, 0.8, -1.0, -0.8)
    ]
    covered = np.concatenate(drawn)
    return normalised_views(covered, measure_moments(covered))
