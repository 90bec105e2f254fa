"""Which frames of a clip an example has."""

from enum import Enum

import numpy as np
from jaxtyping import Int


class FrameChoice(Enum):
    """How frames are chosen among more; all keep their order."""

    PART = "part"
    """A random part of the clip at a random, even, lower rate."""
    UNIFORM = "uniform"
    """The whole clip, evenly (LFDM, NATOPS)."""
    RANDOM = "random"
    """The whole clip; each frame but the ends anywhere between its even neighbours (LFDM, MHAD)."""
    VERY_RANDOM = "very_random"
    """The first frame, and others drawn with replacement (LFDM, MUG)."""


def choose_whole(
    choice: FrameChoice, count: int, frames: int, rng: np.random.Generator
) -> Int[np.ndarray, "t"]:
    """Ascending indices of `frames` frames over a whole clip of `count`, which are at least as many."""
    if choice is FrameChoice.VERY_RANDOM:
        drawn = np.sort(rng.integers(count, size=frames))
        drawn[0] = 0
        return drawn
    even = np.linspace(0, count - 1, frames).astype(int)
    if choice is FrameChoice.RANDOM and frames > 2:
        steps = np.diff(even)
        even[1:-1] += rng.integers(np.minimum(1 - steps[:-1], 0), np.maximum(steps[1:], 1))
    return np.sort(even)
