"""Decoding of latents in chunks of frames and in tiles, because a decoder's activations are far
larger than the clip.

A VideoVAE's temporal cache (`models/video_vae.py`) is carried from chunk to chunk, so that the
result equals decoding the clip at once, in memory independent of its length. Frames that are still
too large are decoded in overlapping tiles, which are blended:

    x = sum_i w_i x_i / sum_i w_i,      w_i falls linearly from 1 to 0 towards the neighbours of tile i
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from magicvideo_jax.core.checks import FieldError, at_least
from magicvideo_jax.core.pixels import to_uint8

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
        at_least(0, self, "tile", "overlap")
        if self.tile and not 0 < self.overlap <= self.tile // 2:
            raise FieldError(
                f"tile={self.tile}: give 0 (whole frames), or at least twice the overlap (overlap={self.overlap}), "
                "which is at least 1"
            )


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
        h, w = z.shape[2:4]
        tops, lefts = tile_starts(h, tile, overlap), tile_starts(w, tile, overlap)
        if len(tops) == len(lefts) == 1:
            return decode(z, cache)
        tile_h, tile_w = min(tile, h), min(tile, w)
        corners = jnp.array([(top, left) for top in tops for left in lefts])

        def decode_tile(corner_and_cache: tuple[Array, Any]) -> tuple[Array, Any]:
            (top, left), cache = corner_and_cache
            size = (*z.shape[:2], tile_h, tile_w, z.shape[-1])
            return decode(jax.lax.dynamic_slice(z, (0, 0, top, left, 0), size), cache)

        x, cache = jax.lax.map(decode_tile, (corners, cache))
        factor = x.shape[-3] // tile_h
        rows = blending_weights(h * factor, [top * factor for top in tops], tile_h * factor)
        columns = blending_weights(w * factor, [left * factor for left in lefts], tile_w * factor)
        blended = jnp.zeros((*z.shape[:2], h * factor, w * factor, x.shape[-1]), x.dtype)
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                weight = jnp.asarray(rows[i][:, None, None] * columns[j][None, :, None], x.dtype)
                region = np.s_[
                    :,
                    :,
                    top * factor : (top + tile_h) * factor,
                    left * factor : (left + tile_w) * factor,
                ]
                blended = blended.at[region].add(x[i * len(lefts) + j] * weight[None, None])
        return blended, cache

    return decode_tiles


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """First positions of the fewest tiles that cover a side with at least this overlap, equally
    spaced.
    """
    if side <= tile:
        return [0]
    number = math.ceil((side - overlap) / (tile - overlap))
    return [round(i * (side - tile) / (number - 1)) for i in range(number)]


def blending_weights(side: int, starts: list[int], tile: int) -> list[np.ndarray]:
    """Weights of each tile's pixels along a side, which sum to 1 at every pixel.

    They fall linearly over the whole overlap with each neighbour.
    """
    positions = np.arange(tile) + 0.5
    weights = []
    for i, start in enumerate(starts):
        weight = np.ones(tile)
        if i > 0:
            weight = np.minimum(weight, positions / (starts[i - 1] + tile - start))
        if i + 1 < len(starts):
            weight = np.minimum(weight, (tile - positions) / (start + tile - starts[i + 1]))
        weights.append(weight)
    total = np.zeros(side)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [
        weight / total[start : start + tile] for start, weight in zip(starts, weights, strict=True)
    ]
