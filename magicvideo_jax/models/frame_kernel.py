"""Attention over the frames of a clip as one kernel for NVIDIA GPUs, and one for its gradients
(Pallas, Triton).

    O = P V,   P = softmax(Q K^T / sqrt(d) + A)

A is the bias, and minus infinity where the mask is False; the gradients are those of
`attend_heads`. Queries, keys and values are read once as they lie, and results are written once:
scores stay in registers, and are computed again for the gradients, as in flash attention (Dao
2307.08691).

Triton multiplies matrices of at least 16 rows, and not batches of them. A program has `_ROWS` rows,
the frames of some pixels for one head, and takes scores between pixels for masked. Its sides are
powers of two: frames are padded, and a head is cut into pieces of its channels (40 is 32 + 16, of
which 8 are padding).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

MOST_FRAMES = 32
"""Frames of a clip for which the kernel is meant: more would fill its rows with two pixels."""
_ROWS = 64
_LEAST_SIDE = 16
_MASKED = -1e30
"""Score of what is masked: finite, so that a row without keys, which is padding, is not NaN."""


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend_frames_in_kernel(
    q: Float[Array, "b t p n d"],
    k: Float[Array, "b f p n d"],
    v: Float[Array, "b f p n d"],
    mask: Bool[Array, "t f"] | None = None,
    bias: Float[Array, "n t f"] | None = None,
    interpret: bool = False,
) -> Float[Array, "b t p n d"]:
    """Attention of each pixel from `t` to `f` frames, at most `MOST_FRAMES`.

    Softmax and sums are in float32; products are of the inputs' dtype, to which P and the
    gradients of scores are rounded. `interpret` computes on any platform, slowly.
    """
    return _forward(q, k, v, mask, bias, interpret)[0]


def _forward(q, k, v, mask, bias, interpret: bool):
    tiles = _Tiles.of(q, k)
    added = _added_to_scores(mask, bias, tiles)
    (values,) = tiles.call(_write_values, (q, k, v), added, like=(q,), interpret=interpret)
    return values, (q, k, v, mask, bias)


def _backward(interpret: bool, kept, g):
    q, k, v, mask, bias = kept
    tiles = _Tiles.of(q, k)
    added = _added_to_scores(mask, bias, tiles)
    gradients = tiles.call(
        _write_gradients,
        (q, k, v, g),
        added,
        like=(q, k, v),
        interpret=interpret,
        sums=() if bias is None else (bias,),
    )
    if bias is None:
        return *gradients, None, None
    *gradients, of_programs = gradients
    of_bias = of_programs.sum((0, 1))[:, : bias.shape[1], : bias.shape[2]]
    return *gradients, None, of_bias.astype(bias.dtype)


attend_frames_in_kernel.defvjp(_forward, _backward)


def _added_to_scores(
    mask: Bool[Array, "t f"] | None, bias: Float[Array, "n t f"] | None, tiles: "_Tiles"
) -> Float[Array, "#n side side"]:
    """Bias and mask as one table; keys beyond the last frame are masked."""
    t, f, side = tiles.queries, tiles.keys, tiles.side
    added = jnp.zeros((1, t, f)) if bias is None else bias.astype(jnp.float32)
    if mask is not None:
        added = jnp.where(mask, added, _MASKED)
    return jnp.pad(added, ((0, 0), (0, side - t), (0, side - f)), constant_values=_MASKED)


@dataclass(frozen=True)
class _Tiles:
    """Division of arrays into programs, and of a program's rows into what Triton can hold."""

    queries: int
    keys: int
    pixels: int
    heads: int
    channels: int

    @classmethod
    def of(cls, q: Array, k: Array) -> "_Tiles":
        return cls(q.shape[1], k.shape[1], *q.shape[2:])

    @property
    def side(self) -> int:
        """Frames of a program, padded."""
        return pl.next_power_of_2(max(self.queries, self.keys))

    @property
    def together(self) -> int:
        """Pixels of a program."""
        return _ROWS // self.side

    @property
    def padded_channels(self) -> int:
        return pl.cdiv(self.channels, _LEAST_SIDE) * _LEAST_SIDE

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """First channel and width of each piece of a head."""
        padded = self.padded_channels
        widths = [1 << i for i in reversed(range(padded.bit_length())) if padded >> i & 1]
        return [(sum(widths[:i]), width) for i, width in enumerate(widths)]

    def call(
        self,
        kernel: Any,
        inputs: tuple[Array, ...],
        added: Array,
        *,
        like: tuple[Array, ...],
        interpret: bool,
        sums: tuple[Array, ...] = (),
    ) -> list[Array]:
        """Results of a kernel: some like the arrays `like`, and a table of each program for each
        of `sums`.
        """
        side, together = self.side, self.together
        # Heads lie next to each other: programs that run together share lines of the cache.
        grid = (self.heads, pl.cdiv(self.pixels, together), len(inputs[0]))

        def rows(x: Array) -> pl.BlockSpec:
            block = (None, side, together, None, self.padded_channels)
            return pl.BlockSpec(block, lambda head, pixels, clip: (clip, 0, pixels, head, 0))

        per_head = len(added) > 1
        table = pl.BlockSpec((None, side, side), lambda head, *_: (head if per_head else 0, 0, 0))
        of_program = pl.BlockSpec(
            (None, None, None, side, side), lambda head, pixels, clip: (clip, pixels, head, 0, 0)
        )
        tables = (grid[2], grid[1], grid[0], side, side)
        return pl.pallas_call(
            partial(kernel, self),
            grid=grid,
            in_specs=[*map(rows, inputs), table],
            out_specs=[*map(rows, like), *(of_program for _ in sums)],
            out_shape=[
                *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like),
                *(jax.ShapeDtypeStruct(tables, jnp.float32) for _ in sums),
            ],
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        )(*inputs, added)

    def read(self, ref: Any, frames: int) -> list[Array]:
        """Pieces of a block, (rows, width), with zeros beyond the array's ends."""
        pieces = (
            triton.load(ref.at[self._window(piece)], mask=self._inside(frames, piece), other=0.0)
            for piece in self.pieces
        )
        return [piece.reshape(_ROWS, -1) for piece in pieces]

    def write(self, ref: Any, frames: int, pieces: list[Array]) -> None:
        """Write pieces to a block, within the array."""
        for piece, rows in zip(self.pieces, pieces, strict=True):
            block = rows.reshape(self.side, self.together, -1).astype(ref.dtype)
            triton.store(ref.at[self._window(piece)], block, mask=self._inside(frames, piece))

    def scores(self, q: list[Array], k: list[Array], added: Any) -> Array:
        """Scaled scores of all rows, with what is added to them, masked between pixels."""
        scores = _sum_of_products(q, k, contracted=(1, 1)) / math.sqrt(self.channels)
        table = added[...][:, None, :, None]
        table = jnp.broadcast_to(table, (self.side, self.together) * 2).reshape(_ROWS, _ROWS)
        return jnp.where(self._same_pixel(), scores + table, _MASKED)

    def sum_over_pixels(self, of_scores: Array) -> Array:
        """Sum of rows and columns over the pixels of a program."""
        return of_scores.reshape((self.side, self.together) * 2).sum(3).sum(1)

    def _window(self, piece: tuple[int, int]) -> tuple[Any, ...]:
        return pl.ds(0, self.side), pl.ds(0, self.together), pl.ds(*piece)

    def _inside(self, frames: int, piece: tuple[int, int]) -> Array:
        shape = (self.side, self.together, piece[1])
        frame, pixel, channel = (jax.lax.broadcasted_iota(jnp.int32, shape, i) for i in range(3))
        first = pl.program_id(1) * self.together
        return (
            (frame < frames) & (first + pixel < self.pixels) & (piece[0] + channel < self.channels)
        )

    def _same_pixel(self) -> Array:
        query, key = (jax.lax.broadcasted_iota(jnp.int32, (_ROWS, _ROWS), i) for i in range(2))
        return query % self.together == key % self.together


def _write_values(tiles: _Tiles, q, k, v, added, out) -> None:
    queries, (keys, values) = (
        tiles.read(q, tiles.queries),
        (tiles.read(x, tiles.keys) for x in (k, v)),
    )
    weights, total = _exponentials(tiles.scores(queries, keys, added))
    weights = weights.astype(v.dtype)
    # Dividing last costs fewer divisions, and rounds the weights after their largest is 1.
    attended = [_product(weights, piece, contracted=(1, 0)) / total for piece in values]
    tiles.write(out, tiles.queries, attended)


def _write_gradients(tiles: _Tiles, q, k, v, g, added, dq, dk, dv, *dbias) -> None:
    queries, of_values = (tiles.read(x, tiles.queries) for x in (q, g))
    keys, values = (tiles.read(x, tiles.keys) for x in (k, v))
    weights, total = _exponentials(tiles.scores(queries, keys, added))
    p = weights / total
    dp = _sum_of_products(of_values, values, contracted=(1, 1))
    ds = p * (dp - (p * dp).sum(1, keepdims=True))
    narrow_p, narrow_ds = p.astype(q.dtype), (ds / math.sqrt(tiles.channels)).astype(q.dtype)
    of_queries = [_product(narrow_ds, piece, contracted=(1, 0)) for piece in keys]
    tiles.write(dq, tiles.queries, of_queries)
    tiles.write(
        dk, tiles.keys, [_product(narrow_ds, piece, contracted=(0, 0)) for piece in queries]
    )
    tiles.write(
        dv, tiles.keys, [_product(narrow_p, piece, contracted=(0, 0)) for piece in of_values]
    )
    for table in dbias:
        table[...] = tiles.sum_over_pixels(ds)


def _exponentials(scores: Array) -> tuple[Array, Array]:
    """P before its division, and what it is divided by."""
    weights = jnp.exp(scores - scores.max(1, keepdims=True))
    return weights, weights.sum(1, keepdims=True)


def _product(a: Array, b: Array, *, contracted: tuple[int, int]) -> Array:
    axes = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _sum_of_products(a: list[Array], b: list[Array], *, contracted: tuple[int, int]) -> Array:
    return sum(_product(*pair, contracted=contracted) for pair in zip(a, b, strict=True))
