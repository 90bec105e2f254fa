"""Overlapping tiles of a frame, for networks whose activations do not fit a device: evaluated one after
the other and blended, in memory of one tile.

    x = sum_i w_i x_i / sum_i w_i,      w_i falls linearly from 1 to 0 towards the neighbours of tile i      (1)

A denoiser that works on tiles blends its output at every step, so that neighbours grow together; a
decoder does so once.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import FieldError, at_least
from magicvideo_jax.core.types import Condition, Denoise


@jax.tree_util.register_static
@dataclass(frozen=True)
class TileConfig:
    """Tiles in which a denoiser sees frames."""

    side: int = 0
    """Side of a tile in latents; 0 denoises whole frames."""
    overlap: int = 16
    """Minimum overlap of neighbouring tiles in latents."""

    def __post_init__(self) -> None:
        check_tiles(self, "side")


def check_tiles(config: Any, name: str) -> None:
    """Refuse a side of tiles, the field `name`, that its `overlap` does not fit. Errors: `FieldError`."""
    at_least(0, config, name, "overlap")
    side, overlap = getattr(config, name), config.overlap
    if side and not 0 < overlap <= side // 2:
        raise FieldError(
            f"{name}={side}: give 0 (whole frames), or at least twice the overlap (overlap={overlap}), "
            "which is at least 1"
        )


class TileGrid:
    """The fewest tiles of at most `tile` x `tile` latents that cover h x w latents."""

    def __init__(self, h: int, w: int, *, tile: int, overlap: int):
        self.size, self.tile = (h, w), (min(tile, h), min(tile, w))
        self.tops, self.lefts = tile_starts(h, tile, overlap), tile_starts(w, tile, overlap)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def corners(self) -> Int[Array, "n 2"]:
        """Top and left of every tile, row by row."""
        return jnp.array([(top, left) for top in self.tops for left in self.lefts])

    def cut(self, x: Float[Array, "b t h w c"], corner: Int[Array, "2"]) -> Float[Array, "..."]:
        """The tile at a corner."""
        start, size = (0, 0, corner[0], corner[1], 0), (*x.shape[:2], *self.tile, x.shape[-1])
        return jax.lax.dynamic_slice(x, start, size)

    def join(self, tiles: Float[Array, "n b t h2 w2 c"]) -> Float[Array, "b t h3 w3 c"]:
        """Blend tiles (eq. 1), which may have become larger by a factor."""
        factor = tiles.shape[-3] // self.tile[0]
        (h, w), (tile_h, tile_w) = ((a * factor, b * factor) for a, b in (self.size, self.tile))
        tops, lefts = ([factor * start for start in starts] for starts in (self.tops, self.lefts))
        rows, columns = blending_weights(h, tops, tile_h), blending_weights(w, lefts, tile_w)
        joined = jnp.zeros((*tiles.shape[1:3], h, w, tiles.shape[-1]), tiles.dtype)
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                weight = jnp.asarray(rows[i][:, None, None] * columns[j][None, :, None])
                region = np.s_[:, :, top : top + tile_h, left : left + tile_w]
                tile = tiles[i * len(lefts) + j]
                joined = joined.at[region].add(tile * weight.astype(tiles.dtype)[None, None])
        return joined


def tiled_denoiser(denoise: Denoise, config: TileConfig) -> Denoise:
    """Denoiser that applies `denoise` to overlapping tiles, and to the same tiles of what it is given."""
    if not config.side:
        return denoise

    def wrapped(
        z: Float[Array, "b t h w c"], time: Float[Array, "b"], condition: Condition, /
    ) -> Float[Array, "b t h w c"]:
        grid = TileGrid(*z.shape[2:4], tile=config.side, overlap=config.overlap)
        if len(grid) == 1:
            return denoise(z, time, condition)

        def denoise_tile(corner: Int[Array, "2"]) -> Array:
            given = None if condition.given is None else grid.cut(condition.given, corner)
            return denoise(grid.cut(z, corner), time, condition._replace(given=given))

        return grid.join(jax.lax.map(denoise_tile, grid.corners))

    return wrapped


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
