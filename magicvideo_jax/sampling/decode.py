"""Latents to pixels, a few frames at a time: a VAE's activations are far larger than the clip."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

FRAMES_AT_ONCE = 8


def decode_clips(
    z: Float[Array, "b t h w c"],
    decode: Callable[[Float[Array, "n h w c"]], Float[Array, "n h2 w2 3"]],
    *,
    at_once: int = FRAMES_AT_ONCE,
) -> UInt8[Array, "b t h2 w2 3"]:
    """Every frame by itself, `at_once` frames of the batch in memory; `decode` gives pixels in [-1, 1]."""
    b, t = z.shape[:2]
    frames = z.reshape(b * t, *z.shape[2:])
    pixels = jax.lax.map(lambda frame: to_uint8(decode(frame[None]))[0], frames, batch_size=min(at_once, b * t))
    return pixels.reshape(b, t, *pixels.shape[1:])


def to_uint8(x: Float[Array, "*b"]) -> UInt8[Array, "*b"]:
    """[-1, 1] -> 0..255."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
