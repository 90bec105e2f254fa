"""Temporal attention: over the frames of one pixel (MagicVideo 2211.11018, section 3; LaVie
2309.15103).

    softmax(mask(q k^T / sqrt(d) + bias)) v W_o,     W_o = 0 at initialisation
    directed: frame i attends to frames j <= i
"""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from magicvideo_jax.models.attention import attend_frames
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.frame_tables import ReadsFrameTables
from magicvideo_jax.models.layers import Embedding, LayerNorm, Linear, project
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig, TemporalMask
from magicvideo_jax.parallel.constraints import shard_activations, shares_clips

BUCKETS = 32
"""Rows of the table of relative biases."""
_EXACT, _FURTHEST = 8, 32
"""Distances below the first have a bucket each; those from the second on share the last."""


class TemporalAttention(ReadsFrameTables):
    """Residual of attention over the frames at each pixel; zero at initialisation."""

    def __init__(self, config: TemporalConfig, channels: int, *, heads: int, keys: Keys):
        self.norm = LayerNorm(channels)
        self.to_q = Linear(channels, channels, keys=keys, bias=False)
        self.to_k = Linear(channels, channels, keys=keys, bias=False)
        self.to_v = Linear(channels, channels, keys=keys, bias=False)
        self.to_out = Linear(channels, channels, keys=keys, zero=True)
        if config.position is PositionEncoding.LEARNED:
            self.positions = nnx.Param(jnp.zeros((config.frames, channels)))
        if config.relative_bias:
            self.relative_bias = Embedding(BUCKETS, heads, keys=keys, std=0.0)
        self.mask, self.position, self.heads = config.mask, config.position, heads

    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return self.attend_last(z, z.shape[1], self._mask(z.shape[1]))

    def attend_last(
        self, frames: Float[Array, "b f h w c"], t: int, mask: Bool[Array, "t f"] | None
    ) -> Float[Array, "b t h w c"]:
        """Residual of attention from the last `t` frames to all frames, under a mask."""
        count, h = frames.shape[1:3]
        # Pixels are one axis while sharding moves from frames to pixels: more mesh sizes divide h
        # w than h.
        flat = shard_activations(rearrange(frames, "b f h w c -> b f (h w) c"))
        # Where devices share a clip, products have pixels before frames: they take all axes but
        # the last for one, and only the first part of such an axis can be sharded.
        swapped = _with_pixels_first if shares_clips() else _as_it_is
        pixels = 1 if shares_clips() else 2
        tokens = self.norm(shard_activations(swapped(flat), axis=pixels))
        if self.position is PositionEncoding.LEARNED:
            positions = self.rows(self.positions[...], count)[None, :, None]
            tokens = tokens + swapped(positions).astype(tokens.dtype)
        if t == count:
            q, k, v = project(tokens, self.to_q, self.to_k, self.to_v, heads=self.heads)
        else:
            last = swapped(swapped(tokens)[:, count - t :])
            (q,) = project(last, self.to_q, heads=self.heads)
            k, v = project(tokens, self.to_k, self.to_v, heads=self.heads)
        q, k, v = swapped(q), swapped(k), swapped(v)
        if self.position is PositionEncoding.ROPE:
            q, k = apply_rope(q, first=count - t), apply_rope(k)
        attended = (
            attend_directed_post_softmax(q, k, v)
            if self.mask is TemporalMask.POST_SOFTMAX
            else attend_frames(q, k, v, mask, self._bias(t, count))
        )
        residual = self.to_out(rearrange(swapped(attended), "b i j n d -> b i j (n d)"))
        residual = swapped(shard_activations(residual, axis=pixels))
        return rearrange(shard_activations(residual), "b t (h w) c -> b t h w c", h=h)

    def _mask(self, t: int) -> Bool[Array, "t t"] | None:
        return directed_mask(t) if self.mask is TemporalMask.DIRECTED else None

    def _bias(self, t: int, count: int) -> Float[Array, "n t f"] | None:
        if not hasattr(self, "relative_bias"):
            return None
        rows = self.relative_bias(jnp.asarray(relative_buckets(count)[count - t :]))
        return jnp.moveaxis(rows, -1, 0)


def _with_pixels_first(x: Float[Array, "b t p ..."]) -> Float[Array, "b p t ..."]:
    return jnp.swapaxes(x, 1, 2)


def _as_it_is(x: Float[Array, "b t p ..."]) -> Float[Array, "b t p ..."]:
    return x


def relative_buckets(t: int) -> Int[np.ndarray, "t t"]:
    """Bucket of the distance j - i for query i and key j (T5 1910.10683, section 2.1), 32 of them,
    16 for each direction.

    Distances below 8 have a bucket each; those up to 32 share 8 more in logarithmic steps, as do
    all beyond the last.
    """
    distance = np.arange(t)[None] - np.arange(t)[:, None]
    n = np.abs(distance)
    ratio = np.log(np.maximum(n, 1) / _EXACT) / np.log(_FURTHEST / _EXACT)
    side = BUCKETS // 2
    far = np.minimum(side - 1, _EXACT + np.floor((side - _EXACT) * ratio).astype(int))
    return np.where(n < _EXACT, n, far) + side * (distance > 0)


def directed_mask(t: int) -> Bool[Array, "t t"]:
    """Causal mask: row i attends to columns j <= i."""
    return jnp.tril(jnp.ones((t, t), bool))


def attend_directed_post_softmax(
    q: Float[Array, "b t p n d"], k: Float[Array, "b t p n d"], v: Float[Array, "b t p n d"]
) -> Float[Array, "b t p n d"]:
    """Attention over frames masked after the softmax, so that rows do not sum to 1
    (`TemporalMask.POST_SOFTMAX`).
    """
    scores = (
        jnp.einsum("bipnd,bjpnd->bpnij", q, k, preferred_element_type=jnp.float32)
        * q.shape[-1] ** -0.5
    )
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    weights = weights * directed_mask(q.shape[1])[None, None, None]
    return jnp.einsum("bpnij,bjpnd->bipnd", weights.astype(v.dtype), v)


def apply_rope(
    x: Float[Array, "b t p n d"], *, first: int = 0, rotated: int = 32
) -> Float[Array, "b t p n d"]:
    """Apply rotary position embedding over frames (Su et al. 2104.09864) to the first channels of
    each head.

    `rotated` is their number, as in LaVie; `first` is the position of the first frame.
    """
    rotated = min(rotated, x.shape[-1] // 2 * 2)
    frequency = 10_000.0 ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated)
    angle = (first + jnp.arange(x.shape[1], dtype=jnp.float32))[:, None] * frequency[None]
    angle = angle[None, :, None, None]
    even, odd = x[..., 0:rotated:2].astype(jnp.float32), x[..., 1:rotated:2].astype(jnp.float32)
    rotation = jnp.stack(
        [
            even * jnp.cos(angle) - odd * jnp.sin(angle),
            even * jnp.sin(angle) + odd * jnp.cos(angle),
        ],
        -1,
    )
    return jnp.concatenate(
        [rotation.reshape(*x.shape[:-1], rotated).astype(x.dtype), x[..., rotated:]], axis=-1
    )
