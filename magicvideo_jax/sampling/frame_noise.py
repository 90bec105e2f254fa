"""Noise of the frames of a clip: one for each, or the same for all.

A network that sees frames one by one makes alike frames of alike frames only where their noise is the
same; with noise of its own in each, what it invents flickers.
"""

from enum import Enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@jax.tree_util.register_static
class FrameNoise(Enum):
    """Whether the frames of a clip share their noise."""

    OWN = "own"
    SHARED = "shared"


def draw_frame_noise(
    key: PRNGKeyArray, shape: tuple[int, ...], kind: FrameNoise
) -> Float[Array, "t h w c"]:
    """Standard normal noise of `shape` (t h w c)."""
    if kind is FrameNoise.OWN:
        return jax.random.normal(key, shape)
    return jnp.broadcast_to(jax.random.normal(key, (1, *shape[1:])), shape)
