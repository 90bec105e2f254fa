"""Data set of drawn clips with captions, rendered on the fly: the default training data, without a
download.

A clip is a pure function of (seed, index, split), so that the position of a loader is one integer.
A fixed tenth of the 704 triples of shape, colour and motion is held out and never used for
training, whereas every pair is.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.drawing import draw_scene
from magicvideo_jax.data.drawn.scene import (
    CANVAS,
    DEFAULT_FPS,
    DEFAULT_FRAMES,
    FPS,
    FRAME_MARGIN,
    MOTION_SECONDS,
    Colour,
    Motion,
    Pattern,
    Scene,
    Shape,
    Truth,
    pose_at,
)
from magicvideo_jax.data.drawn.wording import LARGE, SMALL, caption_clip, caption_image, vocabulary

__all__ = [
    "DEFAULT_FPS",
    "DEFAULT_FRAMES",
    "FPS",
    "Colour",
    "DrawnClip",
    "DrawnSplit",
    "Motion",
    "Scene",
    "Shape",
    "ShapeClips",
    "ShapeImages",
    "Truth",
    "clip_at",
    "draw_clip",
    "draw_image",
    "draw_still",
    "held_out_image_scenes",
    "held_out_scenes",
    "image_at",
    "scene_at",
    "truths",
    "vocabulary",
]

TONES = (
    (30, 30, 34),
    (20, 22, 28),
    (16, 22, 42),
    (16, 34, 34),
    (36, 26, 24),
    (32, 22, 40),
    (38, 38, 42),
    (14, 14, 18),
)


LATEST_START = 2
"""Latest first frame of a late clip, in lengths of a clip: clips three times as long are continued so."""


class DrawnSplit(Enum):
    """Split of the data set. The values seed its random numbers: never change them."""

    TRAIN = 0
    HELD_OUT = 1


@dataclass(frozen=True)
class DrawnClip:
    """Frames of a clip with frame rate, caption and content. An image is a clip of one frame."""

    pixels: UInt8[np.ndarray, "t h w c"]
    caption: str
    shape: Shape
    colour: Colour
    motion: Motion
    fps: float
    is_late: bool = False
    """Whether the first frame is not the beginning of the motion."""


@cache
def truths(split: DrawnSplit) -> tuple[Truth, ...]:
    """Triples of a split, for all seeds.

    Triples are ordered by a hash and the first are held out, at most two of any pair, so that
    training covers every pair of shape, colour and motion.
    """
    every = [
        Truth(shape, colour, motion) for shape in Shape for colour in Colour for motion in Motion
    ]
    chosen: set[Truth] = set()
    taken: dict[tuple[str, ...], int] = {}
    for truth in sorted(every, key=lambda t: hashlib.sha256(" ".join(t).encode()).digest()):
        pairs = (truth[:2], truth[1:], truth[::2])
        if len(chosen) < round(len(every) / 10) and all(taken.get(pair, 0) < 2 for pair in pairs):
            chosen.add(truth)
            taken |= {pair: taken.get(pair, 0) + 1 for pair in pairs}
    return tuple(t for t in every if (t in chosen) == (split is DrawnSplit.HELD_OUT))


def scene_at(
    seed: int,
    index: int,
    split: DrawnSplit = DrawnSplit.TRAIN,
    motions: tuple[Motion, ...] = tuple(Motion),
) -> Scene:
    """Scene at an index of an endless random-access stream of these motions."""
    rng, pool = _rng(seed, index, split.value), _truths_of(split, motions)
    return _invent(rng, pool[rng.integers(len(pool))], unseen=split is DrawnSplit.HELD_OUT)


def held_out_scenes(
    seed: int, number: int, motions: tuple[Motion, ...] = tuple(Motion)
) -> list[Scene]:
    """Distinct scenes of held-out triples, which repeat only after all were used."""
    return _each_once(seed, number, _truths_of(DrawnSplit.HELD_OUT, motions))


@cache
def _truths_of(split: DrawnSplit, motions: tuple[Motion, ...]) -> tuple[Truth, ...]:
    return tuple(truth for truth in truths(split) if truth.motion in motions)


def held_out_image_scenes(seed: int, number: int) -> list[Scene]:
    """Scenes whose `image_caption` has a wording that training never uses for their shape and
    colour.

    Pairs of shape and colour repeat only after all were used.
    """
    return _each_once(seed, number, tuple(Truth(s, c, Motion.STILL) for s in Shape for c in Colour))


def draw_clip(
    scene: Scene, *, frames: int = DEFAULT_FRAMES, size: int = int(CANVAS), first: int = 0
) -> DrawnClip:
    """Render a scene as a clip whose frame i shows the moment (first + i) / fps.

    `dataclasses.replace(scene, fps=...)` samples the same motion at another rate.

    Errors: `UserError` where `frames`, `size` or the scene's fps cannot be drawn.
    """
    if frames < 1 or size < 16 or not scene.fps > 0:
        raise UserError(
            f"a drawn clip needs frames >= 1, size >= 16 and fps > 0, not frames={frames}, size={size}, "
            f"fps={scene.fps}"
        )
    pixels = draw_scene(scene, (first + np.arange(frames)) / scene.fps, size=size)
    return DrawnClip(pixels, scene.caption, *scene.truth, scene.fps, is_late=first > 0)


def draw_image(scene: Scene, *, size: int = int(CANVAS)) -> DrawnClip:
    """Render one frame of a scene, whose caption states only shape and colour.

    Its moment is a function of the scene; a turning shape is shown from its front.
    """
    moment = (
        0.0 if scene.truth.motion is Motion.TURNING else (scene.x * 7.77) % 1.0 * MOTION_SECONDS
    )
    pixels = draw_scene(scene, np.array([moment]), size=size)
    return DrawnClip(pixels, scene.image_caption, *scene.truth, scene.fps)


def draw_still(scene: Scene, *, size: int = int(CANVAS)) -> DrawnClip:
    """Render one frame of a clip with the caption of the clip.

    Early frames are more frequent: what moves left is then mostly on the right, so that words for
    motion are informative to a text-to-image model, and still appears anywhere on its path.
    """
    moment = ((scene.y * 7.77) % 1.0) ** 2 * (DEFAULT_FRAMES - 1) / scene.fps
    pixels = draw_scene(scene, np.array([moment]), size=size)
    return DrawnClip(pixels, scene.caption, *scene.truth, scene.fps)


def clip_at(
    seed: int,
    index: int,
    *,
    split: DrawnSplit = DrawnSplit.TRAIN,
    frames: int = DEFAULT_FRAMES,
    size: int = int(CANVAS),
) -> DrawnClip:
    """Clip at an index of the stream."""
    return draw_clip(scene_at(seed, index, split), frames=frames, size=size)


def image_at(
    seed: int, index: int, *, split: DrawnSplit = DrawnSplit.TRAIN, size: int = int(CANVAS)
) -> DrawnClip:
    """Image at an index of the stream, as a clip of one frame.

    Every other image is a `draw_still`.
    """
    drawn = scene_at(seed, index, split)
    return draw_still(drawn, size=size) if index % 2 else draw_image(drawn, size=size)


@dataclass(frozen=True)
class ShapeClips:
    """Clips by index, as a grain data source.

    `fps` overrides the random frame rates; either is multiplied by `rate_ratio`.
    `uncaptioned_fraction` of the clips have an empty caption. `late_fraction` of them begin at a
    random frame up to `LATEST_START` clips after the first. Only `motions` are shown, whose words
    alone are the captions with `motion_captions`.
    """

    seed: int
    split: DrawnSplit = DrawnSplit.TRAIN
    length: int = 1_000_000
    frames: int = DEFAULT_FRAMES
    size: int = int(CANVAS)
    fps: float | None = None
    rate_ratio: float = 1.0
    uncaptioned_fraction: float = 0.0
    late_fraction: float = 0.0
    motion_captions: bool = False
    motions: tuple[Motion, ...] = tuple(Motion)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> DrawnClip:
        scene = scene_at(self.seed, _checked(index, self.length), self.split, self.motions)
        fps = scene.fps if self.fps is None else self.fps
        scene = replace(scene, fps=fps * self.rate_ratio)
        late, first = _rng(self.seed, index, 5), 0
        if late.random() < self.late_fraction:
            first = int(late.integers(1, LATEST_START * self.frames + 1))
        clip = draw_clip(scene, frames=self.frames, size=self.size, first=first)
        if self.motion_captions:
            clip = replace(clip, caption=clip.motion.value)
        is_uncaptioned = _rng(self.seed, index, 4).random() < self.uncaptioned_fraction
        return replace(clip, caption="") if is_uncaptioned else clip


@dataclass(frozen=True)
class ShapeImages:
    """Images by index, as a grain data source."""

    seed: int
    split: DrawnSplit = DrawnSplit.TRAIN
    length: int = 1_000_000
    size: int = int(CANVAS)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> DrawnClip:
        return image_at(self.seed, _checked(index, self.length), split=self.split, size=self.size)


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"index {index} of {length} drawn clips")
    return int(index)


def _rng(*place: int) -> np.random.Generator:
    if min(place) < 0:
        raise UserError(f"seed and index of a drawn clip must not be negative, got {place[:2]}")
    return np.random.default_rng(place)


def _each_once(seed: int, number: int, pool: tuple[Truth, ...]) -> list[Scene]:
    rounds = [_rng(seed, i, 2).permutation(len(pool)) for i in range(-(-number // len(pool)))]
    order = [pool[place] for turn in rounds for place in turn][:number]
    return [_invent(_rng(seed, i, 3), truth, unseen=True) for i, truth in enumerate(order)]


def _invent(rng: np.random.Generator, truth: Truth, *, unseen: bool) -> Scene:
    """Draw a random scene of a triple.

    All motions draw the same random numbers, so that scenes from one generator state differ only
    in the motion.
    """
    radius, share, tilt = rng.uniform(9.5, 11.5), rng.uniform(), rng.uniform(-0.2, 0.2)
    phase, rate, reach = rng.uniform(-0.05, 0.05), 0.0, 0.0
    sizes = SMALL if radius < 10.1 else LARGE if radius > 10.9 else ()
    match truth.motion:
        case Motion.CIRCLING:
            rate, reach, phase = 0.55 + 0.06 * share, rng.uniform(12, 14), phase - 0.25
        case Motion.BOUNCING:
            rate, reach = 0.5 + 0.06 * share, rng.uniform(24, 28)
        case Motion.TURNING:
            rate, phase = 0.4 + 0.05 * share, 0.0
        case Motion.GROWING:
            rate, radius, sizes = 0.34 + 0.06 * share, rng.uniform(8.5, 9.5), ()
        case Motion.SHRINKING:
            rate, radius, sizes = 0.34 + 0.06 * share, rng.uniform(23, 25), ()
        case Motion.STILL:
            pass
        case _:
            rate = 13.5 + 1.5 * share
    pattern = list(Pattern)[rng.integers(len(Pattern))]
    tone, other = rng.choice(len(TONES), 2, replace=False)
    at_origin = Scene(
        truth=truth,
        caption=caption_clip(rng, truth, pattern, sizes),
        image_caption=caption_image(rng, truth, pattern, (), unseen=unseen),
        fps=float(rng.choice(FPS)),
        x=0.0,
        y=0.0,
        radius=radius,
        tilt=tilt,
        rate=rate,
        reach=reach,
        phase=phase,
        pattern=pattern,
        dark=TONES[tone],
        darker=TONES[other],
    )
    return _put_in_frame(at_origin, rng.uniform(), rng.uniform())


def _put_in_frame(scene: Scene, right: float, down: float) -> Scene:
    """Translate a scene, by fractions `right` and `down` of a range that keeps its whole motion
    inside the frame.

    The range is the middle two fifths of what is possible. Paths of one motion are similar then,
    and can be learned in minutes of training.
    """
    path = pose_at(scene, np.linspace(0, MOTION_SECONDS, 26))
    reach = path.radius + FRAME_MARGIN

    def translation(along, share: float) -> float:
        low, high = -np.min(along - reach), CANVAS - np.max(along + reach)
        return float(low + (0.3 + 0.4 * share) * (high - low))

    return replace(scene, x=translation(path.x, right), y=translation(path.y, down))
