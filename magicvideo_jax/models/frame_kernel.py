"""Attention over the frames of a clip as one kernel for NVIDIA GPUs, and one for its gradients
(Pallas, Triton).

    O = P V,   P = softmax(Q K^T / sqrt(d) + A)

A is the bias, and minus infinity where the mask is False; the gradients are those of
`attend_heads`. Queries, keys and values are read once, as one product writes them, and results are
written once: scores stay in registers, and are computed again for the gradients, as in flash
attention (Dao 2307.08691).

Triton multiplies matrices of at least 16 rows, and not batches of them. A program has `_ROWS` rows,
the frames of some pixels for one head, and takes scores between pixels for masked. Its sides are
powers of two: frames are padded, and a head is cut into pieces of its channels (40 is 32 + 16, of
which 8 are padding).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

_ROWS = 64
_LEAST_SIDE = 16
_QUERIES, _KEYS, _VALUES = range(3)
_MASKED = -1e30
"""Score of what is masked: finite, so that a row without keys, which is padding, is not NaN."""


def attend_frames_in_kernel(
    qkv: Float[Array, "b t p 3 n d"],
    mask: Bool[Array, "t t"] | None = None,
    bias: Float[Array, "n t t"] | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "b t p n d"]:
    """Attention of each pixel from each to all of its at most 64 frames; `qkv` are queries, keys
    and values.

    Softmax and sums are in float32; products are of the inputs' dtype, to which P and the
    gradients of scores are rounded. `interpret` computes on any platform, slowly.
    """
    return _with_own_gradient(qkv, mask, bias, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _with_own_gradient(
    qkv: Float[Array, "b t p 3 n d"],
    mask: Bool[Array, "t t"] | None,
    bias: Float[Array, "n t t"] | None,
    interpret: bool,
) -> Float[Array, "b t p n d"]:
    return _forward(qkv, mask, bias, interpret)[0]


def _forward(qkv, mask, bias, interpret: bool):
    tiles = _Tiles.of(qkv)
    values = jax.ShapeDtypeStruct((*qkv.shape[:3], *qkv.shape[4:]), qkv.dtype)
    (attended,) = tiles.call(
        _write_values,
        (qkv, tiles.added_to_scores(mask, bias)),
        in_specs=(tiles.of_activations(qkv), tiles.of_scores(bias)),
        results=(values,),
        out_specs=(tiles.of_activations(values),),
        interpret=interpret,
    )
    return attended, (qkv, mask, bias)


def _backward(interpret: bool, kept, g):
    qkv, mask, bias = kept
    tiles = _Tiles.of(qkv)
    tables = jax.ShapeDtypeStruct(tiles.tables(len(qkv)), jnp.float32)
    with_bias = slice(1 if bias is None else 2)
    of_qkv, *of_bias = tiles.call(
        _write_gradients,
        (qkv, g, tiles.added_to_scores(mask, bias)),
        in_specs=(tiles.of_activations(qkv), tiles.of_activations(g), tiles.of_scores(bias)),
        results=(qkv, tables)[with_bias],
        out_specs=(tiles.of_activations(qkv), tiles.of_tables())[with_bias],
        interpret=interpret,
    )
    if bias is None:
        return of_qkv, None, None
    t = tiles.frames
    return of_qkv, None, of_bias[0].sum((0, 1))[:, :t, :t].astype(bias.dtype)


_with_own_gradient.defvjp(_forward, _backward)


@dataclass(frozen=True)
class _Tiles:
    """Division of arrays into programs, and of a program's rows into what Triton can hold."""

    frames: int
    pixels: int
    heads: int
    channels: int

    @classmethod
    def of(cls, qkv: Float[Array, "b t p 3 n d"]) -> "_Tiles":
        _, frames, pixels, _, heads, channels = qkv.shape
        return cls(frames, pixels, heads, channels)

    @property
    def side(self) -> int:
        """Frames of a program, padded."""
        return pl.next_power_of_2(self.frames)

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
        widths = [1 << i for i in reversed(range(32)) if self.padded_channels >> i & 1]
        return [(sum(widths[:i]), width) for i, width in enumerate(widths)]

    def tables(self, clips: int) -> tuple[int, ...]:
        """Shape of a table of scores for each program."""
        return clips, pl.cdiv(self.pixels, self.together), self.heads, self.side, self.side

    def call(
        self,
        kernel: Callable[..., None],
        operands: Sequence[Array],
        *,
        in_specs: Sequence[pl.BlockSpec],
        results: Sequence[Any],
        out_specs: Sequence[pl.BlockSpec],
        interpret: bool,
    ) -> Sequence[Array]:
        """Results of a kernel, of the shapes and types of `results`."""
        clips, blocks, heads, *_ = self.tables(len(operands[0]))
        return pl.pallas_call(
            partial(kernel, self),
            # Heads lie next to each other: programs that run together share lines of the cache.
            grid=(heads, blocks, clips),
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=[jax.ShapeDtypeStruct(one.shape, one.dtype) for one in results],
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        )(*operands)

    def of_activations(self, x: Any) -> pl.BlockSpec:
        """A program's part of activations, (b, t, p, .., n, d)."""
        among = x.shape[3:-2]
        block = (None, self.side, self.together, *among, None, self.padded_channels)
        return pl.BlockSpec(
            block, lambda head, pixels, clip: (clip, 0, pixels, *(0 for _ in among), head, 0)
        )

    def of_scores(self, bias: Array | None) -> pl.BlockSpec:
        """A program's part of what is added to scores: its head's, or all heads'."""
        block = (None, self.side, self.side)
        return pl.BlockSpec(block, lambda head, *_: (0 if bias is None else head, 0, 0))

    def of_tables(self) -> pl.BlockSpec:
        """A program's own table of scores."""
        block = (None, None, None, self.side, self.side)
        return pl.BlockSpec(block, lambda head, pixels, clip: (clip, pixels, head, 0, 0))

    def added_to_scores(
        self, mask: Bool[Array, "t t"] | None, bias: Float[Array, "n t t"] | None
    ) -> Float[Array, "#n side side"]:
        """Bias and mask as one table; keys beyond the last frame are masked."""
        added = jnp.zeros((1, self.frames, self.frames)) if bias is None else bias
        added = added.astype(jnp.float32)
        if mask is not None:
            added = jnp.where(mask, added, _MASKED)
        beyond = (0, self.side - self.frames)
        return jnp.pad(added, ((0, 0), beyond, beyond), constant_values=_MASKED)

    def read(self, ref: Any, *which: int) -> list[Array]:
        """Pieces of a block, (rows, width), with zeros beyond the array's ends."""
        parts = (self._part(piece, which) for piece in self.pieces)
        return [
            triton.load(ref.at[window], mask=inside, other=0.0).reshape(_ROWS, -1)
            for window, inside in parts
        ]

    def write(self, ref: Any, pieces: Sequence[Array], *which: int) -> None:
        """Write pieces to a block, within the array."""
        for piece, rows in zip(self.pieces, pieces, strict=True):
            window, inside = self._part(piece, which)
            triton.store(ref.at[window], rows.reshape(inside.shape).astype(ref.dtype), mask=inside)

    def scores(self, q: Sequence[Array], k: Sequence[Array], added: Any) -> Array:
        """Scaled scores of all rows, with what is added to them, masked between pixels."""
        scores = _sum_of_products(q, k) / math.sqrt(self.channels)
        table = added[...][:, None, :, None]
        table = jnp.broadcast_to(table, (self.side, self.together) * 2).reshape(_ROWS, _ROWS)
        query, key = (jax.lax.broadcasted_iota(jnp.int32, (_ROWS, _ROWS), i) for i in range(2))
        is_same_pixel = query % self.together == key % self.together
        return jnp.where(is_same_pixel, scores + table, _MASKED)

    def sum_over_pixels(self, of_scores: Array) -> Array:
        """Sum of rows and columns over the pixels of a program."""
        return of_scores.reshape((self.side, self.together) * 2).sum(3).sum(1)

    def _part(self, piece: tuple[int, int], which: tuple[int, ...]) -> tuple[Any, Array]:
        """Index of a piece in a block, and where it is within the array."""
        first, width = piece
        window = pl.ds(0, self.side), pl.ds(0, self.together), *(pl.ds(i, 1) for i in which)
        shape = self.side, self.together, *(1 for _ in which), width
        frame, pixel, channel = (
            jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1, len(shape) - 1)
        )
        is_pixel = pl.program_id(1) * self.together + pixel < self.pixels
        inside = (frame < self.frames) & is_pixel & (first + channel < self.channels)
        return (*window, pl.ds(first, width)), inside


def _write_values(tiles: _Tiles, qkv, added, out) -> None:
    q, k, v = (tiles.read(qkv, which) for which in (_QUERIES, _KEYS, _VALUES))
    weights, total = _exponentials(tiles.scores(q, k, added))
    weights = weights.astype(qkv.dtype)
    # Weights are rounded before the division: the largest of a row is 1, which is exact.
    tiles.write(out, [_product(weights, piece, contracted=(1, 0)) / total for piece in v])


def _write_gradients(tiles: _Tiles, qkv, g, added, of_qkv, *of_bias) -> None:
    q, k, v = (tiles.read(qkv, which) for which in (_QUERIES, _KEYS, _VALUES))
    g = tiles.read(g)
    weights, total = _exponentials(tiles.scores(q, k, added))
    p = weights / total
    dp = _sum_of_products(g, v)
    ds = p * (dp - (p * dp).sum(1, keepdims=True))
    narrow = (ds / math.sqrt(tiles.channels)).astype(qkv.dtype)
    tiles.write(of_qkv, [_product(narrow, piece, contracted=(1, 0)) for piece in k], _QUERIES)
    tiles.write(of_qkv, [_product(narrow, piece, contracted=(0, 0)) for piece in q], _KEYS)
    # P is rounded, and so is what rounding leaves, whereby the sum is as exact as in float32.
    rounded = p.astype(qkv.dtype)
    rest = (p - rounded.astype(jnp.float32)).astype(qkv.dtype)
    of_values = [
        _product(rounded, piece, contracted=(0, 0)) + _product(rest, piece, contracted=(0, 0))
        for piece in g
    ]
    tiles.write(of_qkv, of_values, _VALUES)
    for table in of_bias:
        table[...] = tiles.sum_over_pixels(ds)


def _exponentials(scores: Array) -> tuple[Array, Array]:
    """P before its division, and what it is divided by."""
    weights = jnp.exp(scores - scores.max(1, keepdims=True))
    return weights, weights.sum(1, keepdims=True)


def _product(a: Array, b: Array, *, contracted: tuple[int, int]) -> Array:
    axes = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _sum_of_products(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """A B^T of matrices in pieces."""
    products = [_product(*pair, contracted=(1, 1)) for pair in zip(a, b, strict=True)]
    return sum(products[1:], start=products[0])
