"""Scenes: one shape of one colour in one motion over a dark background, and its pose at any
moment.

Lengths are pixels of a canvas 64 wide, which other sizes scale; times are seconds. Motion is a
function of continuous time, which the frame rate samples: frame i shows the moment i / fps.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CANVAS = 64.0
FRAME_MARGIN = 1.5
FPS = range(6, 10)
"""Frame rates of clips, at which 16 frames last 1.7 to 2.5 seconds."""
DEFAULT_FPS = 8.0
DEFAULT_FRAMES = 16
MOTION_SECONDS = (DEFAULT_FRAMES - 1) / FPS.start
"""Duration of travelling, growing and shrinking in seconds. The shape rests for the rest of a
longer clip."""
EDGE_ON_WIDTH = 0.35
"""Relative width of a turning shape seen from its side, as if it were a thick coin."""


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    HEART = "heart"
    CROSS = "cross"
    RING = "ring"
    CRESCENT = "crescent"


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"
    WHITE = "white"


class Motion(StrEnum):
    """Motion of a shape: diagonal is down to the right, circling clockwise.

    Turning is about the vertical axis, because a circle that turns in its own plane looks still.
    """

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    DIAGONAL = "diagonal"
    CIRCLING = "circling"
    BOUNCING = "bouncing"
    GROWING = "growing"
    SHRINKING = "shrinking"
    TURNING = "turning"
    STILL = "still"


class Pattern(StrEnum):
    PLAIN = "plain"
    GRADIENT = "gradient"
    CHECKERS = "checkers"
    DOTS = "dots"


PAINT: dict[Colour, tuple[int, int, int]] = {
    Colour.RED: (225, 25, 45),
    Colour.ORANGE: (255, 130, 15),
    Colour.YELLOW: (255, 235, 60),
    Colour.GREEN: (40, 180, 60),
    Colour.BLUE: (40, 120, 255),
    Colour.PURPLE: (140, 45, 205),
    Colour.PINK: (255, 80, 170),
    Colour.WHITE: (245, 245, 245),
}

HEADING: dict[Motion, tuple[float, float]] = {
    Motion.LEFT: (-1.0, 0.0),
    Motion.RIGHT: (1.0, 0.0),
    Motion.UP: (0.0, -1.0),
    Motion.DOWN: (0.0, 1.0),
    Motion.DIAGONAL: (np.sqrt(0.5), np.sqrt(0.5)),
}


class Truth(NamedTuple):
    """Content that a caption states and its clip must show."""

    shape: Shape
    colour: Colour
    motion: Motion


@dataclass(frozen=True)
class Scene:
    """Parameters of a drawn clip, and its captions.

    `rate` is in px/s along a heading, in rounds/s of circling, bouncing or turning, and in
    e-folds/s of growing or shrinking. `reach` is the radius of an orbit or the height of a bounce.
    """

    truth: Truth
    caption: str
    image_caption: str
    fps: float
    x: float
    y: float
    radius: float
    tilt: float
    rate: float
    reach: float
    phase: float
    pattern: Pattern
    dark: tuple[int, int, int]
    darker: tuple[int, int, int]


class Pose(NamedTuple):
    """Position and size of a shape at each moment.

    `width` in [-1, 1] scales it horizontally; negative values show its back.
    """

    x: Float[np.ndarray, "t"]
    y: Float[np.ndarray, "t"]
    radius: Float[np.ndarray, "t"]
    width: Float[np.ndarray, "t"]


def pose_at(scene: Scene, seconds: Float[np.ndarray, "t"]) -> Pose:
    """Pose of the shape of a scene at each of these moments."""
    motion, rest = scene.truth.motion, np.minimum(seconds, MOTION_SECONDS)
    x, y = np.full_like(seconds, scene.x), np.full_like(seconds, scene.y)
    radius, width = np.full_like(seconds, scene.radius), np.ones_like(seconds)
    rounds = scene.phase + scene.rate * seconds
    match motion:
        case Motion.CIRCLING:
            x, y = (
                x + scene.reach * np.cos(2 * np.pi * rounds),
                y + scene.reach * np.sin(2 * np.pi * rounds),
            )
        case Motion.BOUNCING:
            height = rounds % 1.0
            y = y - scene.reach * 4 * height * (1 - height)
        case Motion.GROWING:
            radius = radius * np.exp(scene.rate * rest)
        case Motion.SHRINKING:
            radius = radius * np.exp(-scene.rate * rest)
        case Motion.TURNING:
            facing = np.cos(np.pi * rounds)
            width = np.copysign(np.hypot(facing, EDGE_ON_WIDTH * (1 - np.abs(facing))), facing)
        case Motion.STILL:
            pass
        case _:
            along, down = HEADING[motion]
            x, y = x + along * scene.rate * rest, y + down * scene.rate * rest
    return Pose(x, y, radius, width)
