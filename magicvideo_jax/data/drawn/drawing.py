"""Rendering of scenes: signed distance to the outline -> coverage of each pixel -> paint over
background.

Outlines are in units of the shape, which fills about [-1, 1] x [-1, 1]; y points down, and
distances are negative inside. The coverage of a pixel is one half minus its distance to the
outline in pixels, clipped to [0, 1], which is smooth under subpixel motion.
"""

import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.data.drawn.scene import CANVAS, PAINT, Pattern, Pose, Scene, Shape, pose_at

Plane = Float[np.ndarray, "t h w"]


def outline_distance(shape: Shape, x: Plane, y: Plane) -> Plane:
    """Signed distance to the outline of a shape, which is exact near the outline."""
    match shape:
        case Shape.CIRCLE:
            return np.hypot(x, y) - 0.95
        case Shape.SQUARE:
            return np.maximum(np.abs(x), np.abs(y)) - 0.85
        case (
            Shape.TRIANGLE
        ):  # equilateral, its centre of mass a little below the middle of its height
            return np.maximum(0.866 * np.abs(x) - 0.5 * (y + 1.05), y - 0.75)
        case Shape.STAR:
            return _star(x, y)
        case Shape.HEART:  # a square on its corner and, on its two upper sides, half circles
            side, y = np.abs(x), y - 0.09
            square = (side + np.abs(y) - 0.93) * 0.7071
            return np.minimum(square, np.hypot(side - 0.465, y + 0.465) - 0.6576)
        case Shape.CROSS:
            long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
            return np.maximum(long - 1.0, short - 0.32)
        case Shape.RING:
            return np.abs(np.hypot(x, y) - 0.72) - 0.26
        case Shape.CRESCENT:  # a disc less another disc
            return np.maximum(np.hypot(x - 0.1, y) - 1.0, 0.75 - np.hypot(x - 0.56, y))


def _star(x: Plane, y: Plane) -> Plane:
    """Distance to a star of five points, whose symmetry folds its ten edges onto one.

    The edge runs from (1.05, 0) to 0.46 (cos 36, sin 36).
    """
    far, angle = np.hypot(x, y), np.arctan2(x, -y)
    fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    tip, inner = np.array([1.05, 0.0]), 0.46 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    across, along = (inner - tip)[::-1] / np.linalg.norm(inner - tip)
    return (far * np.cos(fold) - 1.05) * float(across) - far * np.sin(fold) * float(along)


def coverage(shape: Shape, tilt: float, at: Pose, *, size: int) -> Plane:
    """Coverage of each pixel of a `size` x `size` image by a shape, at each pose in pixels."""
    half = (
        int(np.ceil(np.max(at.radius) * 1.15)) + 2
    )  # a window around the shape is much smaller than the canvas
    grid = np.arange(-half, half + 1, dtype=np.float32)
    column, row = np.floor(at.x).astype(int), np.floor(at.y).astype(int)
    right = grid + 0.5 + (column - at.x).astype(np.float32)[:, None]
    down = grid + 0.5 + (row - at.y).astype(np.float32)[:, None]
    right, down = np.broadcast_arrays(right[:, None, :], down[:, :, None])

    radius, width = (v.astype(np.float32)[:, None, None] for v in (at.radius, at.width))
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    x, y = right / (radius * width), down / radius
    distance = outline_distance(shape, x * cos + y * sin, y * cos - x * sin) * radius
    if np.any(
        np.abs(at.width) < 1
    ):  # squeezing a shape squeezes distances too: measure how fast they change
        by_y, by_x = np.gradient(distance, axis=(1, 2))
        distance = distance / np.maximum(np.hypot(by_x, by_y), 0.5)
    covered = np.clip(0.5 - distance, 0, 1)

    out = np.zeros((len(at.x), size + 4 * half + 1, size + 4 * half + 1), np.float32)
    top, left = np.clip(row, -half, size + half) + half, np.clip(column, -half, size + half) + half
    for i in range(len(at.x)):
        out[i, top[i] : top[i] + len(grid), left[i] : left[i] + len(grid)] = covered[i]
    return out[:, 2 * half : 2 * half + size, 2 * half : 2 * half + size]


def background(scene: Scene, size: int) -> Float[np.ndarray, "h w c"]:
    """Background of two dark tones in a pattern.

    No channel exceeds level 62, whereas every paint has a channel of at least 180.
    """
    dark, darker = (np.array(tone, np.float32) for tone in (scene.dark, scene.darker))
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = line[None, :], line[:, None]
    match scene.pattern:
        case Pattern.PLAIN:
            mix = np.zeros((size, size), np.float32)
        case Pattern.GRADIENT:
            mix = np.clip(0.5 + (x - 0.5) * np.cos(6 * scene.tilt) + (y - 0.5), 0, 1)
        case Pattern.CHECKERS:  # squares of 8 canvas px with soft edges
            mix = 0.5 + 0.35 * np.clip(4 * np.sin(8 * np.pi * x) * np.sin(8 * np.pi * y), -1, 1)
        case Pattern.DOTS:
            mix = np.clip(3 * np.sin(6 * np.pi * x) ** 2 * np.sin(6 * np.pi * y) ** 2 - 1.2, 0, 1)
    return dark + (darker - dark) * mix[..., None].astype(np.float32)


def draw_scene(
    scene: Scene, seconds: Float[np.ndarray, "t"], *, size: int = int(CANVAS)
) -> UInt8[np.ndarray, "t h w c"]:
    """Render the scene at each of these moments, as `size` x `size` pixels."""
    at, scale = pose_at(scene, seconds), size / CANVAS
    at = Pose(at.x * scale, at.y * scale, at.radius * scale, at.width)
    covered = coverage(scene.truth.shape, scene.tilt, at, size=size)[..., None]
    behind = background(scene, size)
    paint = np.array(PAINT[scene.truth.colour], np.float32)
    return np.round(behind + covered * (paint - behind)).astype(np.uint8)
