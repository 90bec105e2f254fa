"""Latents to pixels, some frames and some of a frame at a time: a decoder's activations are far larger than the clip.

Frames go through in chunks. What a VideoVAE needs of the frames before travels along (`models/video_vae.py`), so that a
clip in chunks equals the clip whole, in memory that its length does not change. Frames too large even so go through in
tiles, which overlap and fade into each other:

    x = sum_i w_i x_i / sum_i w_i,      w_i falls along a line from 1 to 0 towards the sides where tile i meets others
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

Decode = Callable[[Float[Array, "b t h w c"], Any], tuple[Float[Array, "b t h2 w2 3"], Any]]
"""`decode(z, past)` gives pixels in [-1, 1] and the past of the next frames: a tree of arrays, all zeros before the
first frame (or give none), itself none if frames do not meet."""


@dataclass(frozen=True)
class DecodeConfig:
    """How much is in memory together."""

    frames: int = 8
    """Decoded at once."""
    tile: int = 0
    """Latents along h and w of a tile; 0: whole frames."""
    overlap: int = 8
    """Latents that neighbouring tiles share at least."""

    def __post_init__(self) -> None:
        at_least(1, self, "frames")
        at_least(0, self, "tile", "overlap")
        if self.tile and not 0 < self.overlap <= self.tile // 2:
            raise FieldError(
                f"tile={self.tile}: give 0 (whole frames), or at least twice the overlap (overlap={self.overlap}), "
                "which is at least 1"
            )


def decode_clips(
    z: Float[Array, "b t h w c"], decode: Decode, config: DecodeConfig | None = None
) -> UInt8[Array, "b t h2 w2 3"]:
    """Clip after clip, in chunks of about `config.frames` frames; of a decoder whose frames do not meet, all frames of
    the batch are as one clip."""
    config = config or DecodeConfig()
    b, t = z.shape[:2]
    tiled = in_tiles(decode, config.tile, config.overlap) if config.tile else decode
    frame = jax.ShapeDtypeStruct((1, 1, *z.shape[2:]), z.dtype)
    past = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda z: tiled(z, None)[1], frame)
    )
    clips = z.reshape(1, b * t, *z.shape[2:]) if past is None else z
    pixels = jax.lax.map(lambda clip: _in_chunks(clip, tiled, past, at_most=config.frames), clips)
    return pixels.reshape(b, t, *pixels.shape[2:])


def _in_chunks(
    clip: Float[Array, "t h w c"], decode: Decode, past: Any, *, at_most: int
) -> UInt8[Array, "t2 h2 w2 3"]:
    """One program for all chunks: the last is filled up with its last frame, on which no other depends."""
    t = len(clip)
    number = math.ceil(t / at_most)
    each = math.ceil(t / number)
    filled = jnp.pad(clip, ((0, each * number - t), *((0, 0),) * 3), mode="edge")
    chunks = filled.reshape(number, 1, each, *clip.shape[1:])

    def step(past: Any, z: Array) -> tuple[Any, Array]:
        x, past = decode(z, past)
        return past, to_uint8(x)

    _, pixels = jax.lax.scan(step, past, chunks)
    return pixels.reshape(each * number, *pixels.shape[3:])[:t]


def in_tiles(decode: Decode, tile: int, overlap: int) -> Decode:
    """`decode` for frames of any size by tiles of `tile` x `tile` latents; frames that are no larger stay whole."""

    def decode_tiles(
        z: Float[Array, "b t h w c"], past: Any
    ) -> tuple[Float[Array, "b t h2 w2 3"], Any]:
        h, w = z.shape[2:4]
        tops, lefts = starts(h, tile, overlap), starts(w, tile, overlap)
        if len(tops) == len(lefts) == 1:
            return decode(z, past)
        high, wide = min(tile, h), min(tile, w)
        corners = jnp.array([(top, left) for top in tops for left in lefts])

        def one(corner_and_past: tuple[Array, Any]) -> tuple[Array, Any]:
            (top, left), before = corner_and_past
            part = jax.lax.dynamic_slice(
                z, (0, 0, top, left, 0), (*z.shape[:2], high, wide, z.shape[-1])
            )
            return decode(part, before)

        x, past = jax.lax.map(one, (corners, past))
        factor = x.shape[-3] // high
        rows = ramps(h * factor, [top * factor for top in tops], high * factor)
        columns = ramps(w * factor, [left * factor for left in lefts], wide * factor)
        whole = jnp.zeros((*z.shape[:2], h * factor, w * factor, x.shape[-1]), x.dtype)
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                weight = jnp.asarray(rows[i][:, None, None] * columns[j][None, :, None], x.dtype)
                place = np.s_[
                    :,
                    :,
                    top * factor : (top + high) * factor,
                    left * factor : (left + wide) * factor,
                ]
                whole = whole.at[place].add(x[i * len(lefts) + j] * weight[None, None])
        return whole, past

    return decode_tiles


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of a side begin: as few as share `overlap`, at equal distances, the last at the end."""
    if side <= tile:
        return [0]
    number = math.ceil((side - overlap) / (tile - overlap))
    return [round(i * (side - tile) / (number - 1)) for i in range(number)]


def ramps(side: int, starts: list[int], tile: int) -> list[np.ndarray]:
    """The weights of each tile's pixels along a side: they sum to 1 everywhere. Towards a neighbour they fall over all
    that the two share."""
    places = np.arange(tile) + 0.5
    weights = []
    for i, start in enumerate(starts):
        weight = np.ones(tile)
        if i > 0:
            weight = np.minimum(weight, places / (starts[i - 1] + tile - start))
        if i + 1 < len(starts):
            weight = np.minimum(weight, (tile - places) / (start + tile - starts[i + 1]))
        weights.append(weight)
    total = np.zeros(side)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [
        weight / total[start : start + tile] for start, weight in zip(starts, weights, strict=True)
    ]
