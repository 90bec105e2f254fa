"""Reads shape, colour and motion back from the pixels of a clip of one bright shape on a dark background.

Nothing here is learned or told: brightness parts the shape from its background; the mean colour inside is compared with
the paints; what is seen face-on is compared with every outline; and the path, size and proportions over the frames
are one of the motions' laws. It holds up under blur and noise, since it also reads what a model has drawn.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.data.drawn.drawing import coverage
from magicvideo_jax.data.drawn.scene import CANVAS, HEADING, PAINT, Colour, Motion, Pose, Shape

MIN_CONTRAST = 60.0
"""A clip whose brightest parts pass its background by less than this (of 255) shows nothing."""
BEST_FRAMES = 6
"""Frames that a shape is read from: those that show it largest and face-on."""
VIEW_SIDE = 27
"""Pixels of a normalised view, which spans 2.7 square roots of the shape's area around its centre of mass."""


class Reading(NamedTuple):
    """What is to be seen; None where there is nothing, or for the motion of a single frame."""

    shape: Shape | None
    colour: Colour | None
    motion: Motion | None


class Moments(NamedTuple):
    """Per frame: area, centre of mass, and spread about it along either axis, in px of a canvas 64 wide."""

    area: Float[np.ndarray, "t"]
    x: Float[np.ndarray, "t"]
    y: Float[np.ndarray, "t"]
    wide: Float[np.ndarray, "t"]
    high: Float[np.ndarray, "t"]


def read_clip(clip: UInt8[np.ndarray, "t h w c"]) -> Reading:
    """What a clip shows; of a clip of one frame, shape and colour."""
    covered = segment_shape(clip)
    if covered is None:
        return Reading(None, None, None)
    found = measure_moments(covered)
    seen = found.area > 0.05 * np.max(
        found.area
    )  # frames where the shape has all but vanished say nothing
    covered, found = covered[seen], Moments(*(value[seen] for value in found))
    motion = read_motion(found) if len(found.area) > 2 else None
    return Reading(read_shape(covered, found), read_colour(clip[seen], covered), motion)


def segment_shape(clip: UInt8[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w"] | None:
    """How much of each pixel the shape covers: its brightest channel, between the background's and the paint's. None
    where nothing stands out."""
    value = np.max(clip, axis=-1).astype(np.float32)
    low, high = np.median(value), np.percentile(value, 99.5)
    if high - low < MIN_CONTRAST:
        return None
    covered = np.clip((value - low) / (high - low), 0, 1)
    return np.where(covered < 0.3, 0, covered).astype(np.float32)


def measure_moments(covered: Float[np.ndarray, "t h w"]) -> Moments:
    """Area, centre and spread of every frame."""
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
    """The paint nearest to the mean colour of what is wholly covered."""
    inside = covered > 0.8
    mean = clip[inside if np.any(inside) else covered > 0].astype(np.float32).mean(axis=0)
    return min(
        Colour, key=lambda colour: float(np.linalg.norm(mean - np.array(PAINT[colour], np.float32)))
    )


def read_motion(found: Moments) -> Motion:
    """The law that the frames obey: proportions that change are a turning, a size that changes is growth, and the rest
    is told by the path of the centre."""
    frames = np.linspace(-0.5, 0.5, len(found.area))
    proportion = np.log(found.wide / found.high)
    if np.std(proportion) > 0.17:
        return Motion.TURNING
    growth = np.polyfit(frames, np.log(found.area), 1)[
        0
    ]  # twice the log of the size's ratio, last to first frame
    if abs(growth) > 0.45:
        return Motion.GROWING if growth > 0 else Motion.SHRINKING

    path = np.stack([found.x, found.y]) - np.array([[found.x.mean()], [found.y.mean()]])
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


def read_shape(covered: Float[np.ndarray, "t h w"], found: Moments) -> Shape:
    """The outline whose best view overlaps most, over the frames that show the shape largest and face-on."""
    face_on = found.area * np.minimum(found.wide / np.max(found.wide), 1) ** 2
    best = np.argsort(-face_on)[:BEST_FRAMES]
    views = normalised_views(covered[best], Moments(*(value[best] for value in found)))
    scores = {}
    for shape in Shape:
        known = known_views(shape)
        both = np.minimum(views[:, None], known[None]).sum(axis=(-1, -2))
        either = np.maximum(views[:, None], known[None]).sum(axis=(-1, -2))
        scores[shape] = float(np.mean(np.max(both / either, axis=1)))
    return max(scores, key=lambda shape: scores[shape])


def normalised_views(
    covered: Float[np.ndarray, "t h w"], found: Moments
) -> Float[np.ndarray, "t s s"]:
    """Every frame seen at one size, centred: bilinear samples `SIDE` x `SIDE` around the centre of mass."""
    scale, (height, width) = covered.shape[-1] / CANVAS, covered.shape[-2:]
    grid = 2.7 * (np.arange(VIEW_SIDE) / (VIEW_SIDE - 1) - 0.5)
    reach = np.sqrt(found.area)[:, None] * grid
    x, y = (np.clip((middle[:, None] + reach) * scale - 0.5, 0, side - 1.001)
            for middle, side in ((found.x, width), (found.y, height)))  # fmt: skip
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
    """A shape's normalised views: tilted to either side, turned a little, and from its back."""
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
