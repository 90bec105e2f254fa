"""Captions of drawn scenes in many wordings, which state shape, colour and, for clips, motion."""

import hashlib
import itertools
import re
from collections.abc import Iterator

import numpy as np

from magicvideo_jax.data.drawn.scene import Colour, Motion, Pattern, Shape, Truth

# (after "is", after "it"): "a star is rising", "a star rises".
MOTIONS: dict[Motion, tuple[tuple[str, str], ...]] = {
    Motion.LEFT: (
        ("moving left", "moves left"),
        ("sliding to the left", "slides to the left"),
        ("drifting left", "drifts left"),
        ("going left", "goes left"),
    ),
    Motion.RIGHT: (
        ("moving right", "moves right"),
        ("sliding to the right", "slides to the right"),
        ("drifting right", "drifts right"),
        ("going right", "goes right"),
    ),
    Motion.UP: (
        ("moving up", "moves up"),
        ("rising", "rises"),
        ("floating up", "floats up"),
        ("going up", "goes up"),
    ),
    Motion.DOWN: (
        ("moving down", "moves down"),
        ("falling", "falls"),
        ("sinking", "sinks"),
        ("going down", "goes down"),
    ),
    Motion.DIAGONAL: (
        ("moving diagonally", "moves diagonally"),
        ("sliding diagonally", "slides diagonally"),
        ("moving diagonally down to the right", "moves diagonally down to the right"),
    ),
    Motion.CIRCLING: (
        ("circling around", "circles around"),
        ("going round and round", "goes round and round"),
        ("orbiting the middle", "orbits the middle"),
    ),
    Motion.BOUNCING: (
        ("bouncing", "bounces"),
        ("bouncing up and down", "bounces up and down"),
        ("jumping", "jumps"),
        ("hopping", "hops"),
    ),
    Motion.GROWING: (
        ("growing", "grows"),
        ("getting bigger", "gets bigger"),
        ("expanding", "expands"),
    ),
    Motion.SHRINKING: (
        ("shrinking", "shrinks"),
        ("getting smaller", "gets smaller"),
        ("contracting", "contracts"),
    ),
    Motion.TURNING: (
        ("turning", "turns"),
        ("spinning", "spins"),
        ("spinning like a coin", "spins like a coin"),
        ("turning around", "turns around"),
    ),
    Motion.STILL: (
        ("standing still", "stands still"),
        ("not moving", "does not move"),
        ("staying in place", "stays in place"),
        ("resting", "rests"),
    ),
}

BACKGROUNDS: dict[Pattern, tuple[str, ...]] = {
    Pattern.PLAIN: ("on a plain background", "on a dark background", "against a plain wall"),
    Pattern.GRADIENT: ("on a shaded background", "on a dark background", "in soft light"),
    Pattern.CHECKERS: ("on a checkered background", "over dark checkers", "on a checkered floor"),
    Pattern.DOTS: ("on a dotted background", "over dark dots", "on a dotted wall"),
}

SMALL, LARGE = ("small", "little", "tiny"), ("big", "large")

# {it}: size, colour and shape; {moving} and {moves}: the two forms of a motion; {where}: the
# background.
CLIP_TEMPLATES = (
    "a {it} {moving}",
    "the {it} {moves}",
    "a {it} that {moves}",
    "{it} {moving}",
    "{it}, {moving}",
    "one {it} is {moving}",
    "a {it} {moves} {where}",
    "the {it} is {moving} {where}",
    "{where} a {it} {moves}",
    "there is a {it} {moving} {where}",
    "a video of a {it} {moving}",
    "a clip of a {it} which {moves}",
    "we see a {it} {moving} {where}",
    "a {it} shape that {moves}",
)
IMAGE_TEMPLATES = (
    "a {it}",
    "the {it}",
    "{it}",
    "one {it}",
    "a {it} {where}",
    "the {it} {where}",
    "{where} a {it}",
    "there is a {it} {where}",
    "a picture of a {it}",
    "an image of a {it} {where}",
    "a drawing of one {it}",
    "we see a {it}",
)


def unused_image_template(shape: Shape, colour: Colour) -> int:
    """Index in `IMAGE_TEMPLATES` of the wording that training never uses for this shape and
    colour.
    """
    return hashlib.sha256(f"{colour} {shape}".encode()).digest()[0] % len(IMAGE_TEMPLATES)


def fill_template(template: str, *, it: str, moving: str, moves: str, where: str) -> str:
    """Fill a template, with "an" before a vowel."""
    text = template.format(it=it, moving=moving, moves=moves, where=where)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def caption_clip(
    rng: np.random.Generator, truth: Truth, pattern: Pattern, sizes: tuple[str, ...]
) -> str:
    """Random caption of a clip. Half of them state the size, if `sizes` has words for it."""
    template = CLIP_TEMPLATES[rng.integers(len(CLIP_TEMPLATES))]
    moving, moves = MOTIONS[truth.motion][rng.integers(len(MOTIONS[truth.motion]))]
    return fill_template(
        template,
        it=_name(rng, truth, sizes),
        moving=moving,
        moves=moves,
        where=_place(rng, pattern),
    )


def caption_image(
    rng: np.random.Generator,
    truth: Truth,
    pattern: Pattern,
    sizes: tuple[str, ...],
    *,
    unseen: bool,
) -> str:
    """Random caption of an image, without motion.

    `unseen` asks for the wording that training never uses.
    """
    left_out = unused_image_template(truth.shape, truth.colour)
    other = (left_out + 1 + int(rng.integers(len(IMAGE_TEMPLATES) - 1))) % len(IMAGE_TEMPLATES)
    template = IMAGE_TEMPLATES[left_out if unseen else other]
    return fill_template(
        template, it=_name(rng, truth, sizes), moving="", moves="", where=_place(rng, pattern)
    )


def vocabulary() -> tuple[str, ...]:
    """All words of captions, sorted."""
    return tuple(
        sorted(
            {word for text in _all_texts() for word in re.findall(r"[a-z]+", text)} | {"a", "an"}
        )
    )


def _name(rng: np.random.Generator, truth: Truth, sizes: tuple[str, ...]) -> str:
    size = f"{sizes[rng.integers(len(sizes))]} " if sizes and rng.random() < 0.5 else ""
    return f"{size}{truth.colour} {truth.shape}"


def _place(rng: np.random.Generator, pattern: Pattern) -> str:
    return BACKGROUNDS[pattern][rng.integers(len(BACKGROUNDS[pattern]))]


def _all_texts() -> Iterator[str]:
    for template in CLIP_TEMPLATES + IMAGE_TEMPLATES:
        yield re.sub(r"{\w+}", " ", template)
    yield from itertools.chain(SMALL, LARGE, Shape, Colour, *BACKGROUNDS.values())
    yield from itertools.chain.from_iterable(itertools.chain.from_iterable(MOTIONS.values()))
