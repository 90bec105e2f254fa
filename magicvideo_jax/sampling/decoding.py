"""Decoding of latents in chunks of frames and in tiles, because a decoder's activations are far
larger than the clip.

A VideoVAE's temporal cache (`models/video_vae.py`) is carried from chunk to chunk, so that the
result equals decoding the clip at once, in memory independent of its length. Frames that are still
too large are decoded in overlapping tiles, which are blended (`tiles.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.pixels import to_uint8
from magicvideo_jax.sampling.tiles import TileGrid, check_tiles

StreamingDecode = Callable[
    [Float[Array, "b t h w c"], Any], tuple[Float[Array, "b t h2 w2 3"], Any]
]
"""`decode(z, cache)` returns pixels in [-1, 1] and the cache for the next frames.

The cache is a tree of arrays. It is None or all zeros before the first frame, and always None for
a decoder without temporal layers."""


@dataclass(frozen=True)
class DecodeConfig:
    """How many frames, and how much of a frame, are decoded at once."""

    frames: int = 8
    """Frames decoded at once."""
    tile: int = 0
    """Side of a tile in latents; 0 decodes whole frames."""
    overlap: int = 8
    """Minimum overlap of neighbouring tiles in latents."""

    def __post_init__(self) -> None:
        at_least(1, self, "frames")
        check_tiles(self, "tile")


def decode_clips(
    z: Float[Array, "b t h w c"], decode: StreamingDecode, config: DecodeConfig | None = None
) -> UInt8[Array, "b t h2 w2 3"]:
    """Decode clips one after the other, in chunks of about `config.frames` frames.

    A decoder without temporal layers has no state, so all frames of the batch are chunked
    together.
    """
    config = config or DecodeConfig()
    b, t = z.shape[:2]
    decode = tiled(decode, config.tile, config.overlap) if config.tile else decode
    frame = jax.ShapeDtypeStruct((1, 1, *z.shape[2:]), z.dtype)
    cache = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda z: decode(z, None)[1], frame)
    )
    clips = z.reshape(1, b * t, *z.shape[2:]) if cache is None else z
    pixels = jax.lax.map(lambda clip: _in_chunks(clip, decode, cache, at_most=config.frames), clips)
    return pixels.reshape(b, t, *pixels.shape[2:])


def _in_chunks(
    clip: Float[Array, "t h w c"], decode: StreamingDecode, cache: Any, *, at_most: int
) -> UInt8[Array, "t2 h2 w2 3"]:
    """Decode one clip in equal chunks, so that all share one program."""
    t = len(clip)
    number = math.ceil(t / at_most)
    each = math.ceil(t / number)
    # No frame depends on a later one, so padding at the end changes none.
    padded = jnp.pad(clip, ((0, each * number - t), *((0, 0),) * 3), mode="edge")
    chunks = padded.reshape(number, 1, each, *clip.shape[1:])

    def step(cache: Any, z: Array) -> tuple[Any, Array]:
        x, cache = decode(z, cache)
        return cache, to_uint8(x)

    _, pixels = jax.lax.scan(step, cache, chunks)
    return pixels.reshape(each * number, *pixels.shape[3:])[:t]


def tiled(decode: StreamingDecode, tile: int, overlap: int) -> StreamingDecode:
    """Decoder that applies `decode` to overlapping tiles of at most `tile` x `tile` latents and
    blends them.
    """

    def decode_tiles(
        z: Float[Array, "b t h w c"], cache: Any
    ) -> tuple[Float[Array, "b t h2 w2 3"], Any]:
        grid = TileGrid(*z.shape[2:4], tile=tile, overlap=overlap)
        if len(grid) == 1:
            return decode(z, cache)

        def decode_tile(corner_and_cache: tuple[Array, Any]) -> tuple[Array, Any]:
            corner, cache = corner_and_cache
            return decode(grid.cut(z, corner), cache)

        x, cache = jax.lax.map(decode_tile, (grid.corners, cache))
        return grid.join(x), cache

    return decode_tiles
