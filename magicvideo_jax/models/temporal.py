"""Temporal layers that MagicVideo adds to an image network (arXiv 2211.11018, section 3); all
start as identities.

Frame-wise adaptor:            z^i <- z^i (1 + S^i) + B^i,                S = B = 0 at start
Directed temporal attention:   softmax(mask(q k^T / sqrt(d))) v W_o,      over the frames of one pixel, W_o = 0 at start
                               mask: frame i attends to frames j <= i
"""

from dataclasses import dataclass
from enum import Enum

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import LayerNorm, Linear, broadcast_rows
from magicvideo_jax.parallel.constraints import gather_parameter, shard_activations


class TemporalMixing(Enum):
    """Placement and kind of the layers that mix frames."""

    PARALLEL = "parallel"
    """Temporal attention in parallel with the spatial transformer, summed (MagicVideo)."""
    SEQUENTIAL = "sequential"
    """Temporal attention after the spatial transformer."""
    LAVIE = "lavie"
    """Temporal attention between cross-attention and feed-forward (LaVie 2309.15103)."""
    SHIFT = "shift"
    """Temporal shift of two thirds of the channels, without parameters (Latent-Shift 2304.08477).
    """
    NONE = "none"
    """Independent frames (the paper's ablation, which is incoherent)."""


class TemporalMask(Enum):
    """Frames to which temporal attention attends."""

    DIRECTED = "directed"
    """Frames j <= i, by a mask before the softmax."""
    POST_SOFTMAX = "post_softmax"
    """The paper's equation taken literally: a softmax over all frames, then multiplied by the
    triangular mask."""
    NONE = "none"
    """All frames (bidirectional)."""


class PositionEncoding(Enum):
    """Positional encoding of frames in temporal attention."""

    NONE = "none"
    LEARNED = "learned"
    ROPE = "rope"


@dataclass(frozen=True)
class TemporalConfig:
    """Temporal layers of a video network. The defaults are the paper's."""

    frames: int = 16
    """Number of frames for which adaptors and learned positions have parameters. Shorter clips use
    the first ones."""
    adaptors: bool = True
    mixing: TemporalMixing = TemporalMixing.PARALLEL
    mask: TemporalMask = TemporalMask.DIRECTED
    position: PositionEncoding = PositionEncoding.NONE

    def __post_init__(self) -> None:
        at_least(1, self, "frames")


class FrameAdaptor(nnx.Module):
    """Learned scale and shift of the channels for each frame of a clip; the identity at
    initialisation.
    """

    def __init__(self, frames: int, channels: int):
        self.scale, self.shift = (
            nnx.Param(jnp.zeros((frames, channels))),
            nnx.Param(jnp.zeros((frames, channels))),
        )

    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        b, t, h, w, c = z.shape

        def broadcast(table: Float[Array, "f c"]) -> Float[Array, "b t h w c"]:
            rows = jnp.broadcast_to(gather_parameter(table)[None, :t], (b, t, c))
            return broadcast_rows(rows, h * w).reshape(z.shape)

        # In float32, because bfloat16 cannot represent changes of a scale near 1 that are below
        # 0.4 %.
        y = z.astype(jnp.float32) * (1 + broadcast(self.scale[...])) + broadcast(self.shift[...])
        return y.astype(z.dtype)


class TemporalAttention(nnx.Module):
    """Residual of attention over the frames at each pixel; zero at initialisation."""

    def __init__(self, config: TemporalConfig, channels: int, *, heads: int, keys: Keys):
        self.norm = LayerNorm(channels)
        self.to_q = Linear(channels, channels, keys=keys, bias=False)
        self.to_k = Linear(channels, channels, keys=keys, bias=False)
        self.to_v = Linear(channels, channels, keys=keys, bias=False)
        self.to_out = Linear(channels, channels, keys=keys, zero=True)
        if config.position is PositionEncoding.LEARNED:
            self.positions = nnx.Param(jnp.zeros((config.frames, channels)))
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
        tokens = self.norm(shard_activations(rearrange(flat, "b f p c -> b p f c")))
        if self.position is PositionEncoding.LEARNED:
            tokens = tokens + self.positions[None, None, :count].astype(tokens.dtype)
        q, k, v = (
            rearrange(projected, "b p f (n d) -> b p f n d", n=self.heads)
            for projected in (
                self.to_q(tokens[:, :, count - t :]),
                self.to_k(tokens),
                self.to_v(tokens),
            )
        )
        if self.position is PositionEncoding.ROPE:
            q, k = apply_rope(q, first=count - t), apply_rope(k)
        attended = (
            attend_directed_post_softmax(q, k, v)
            if self.mask is TemporalMask.POST_SOFTMAX
            else attend(q, k, v, mask)
        )
        residual = shard_activations(self.to_out(rearrange(attended, "b p t n d -> b p t (n d)")))
        return rearrange(
            shard_activations(rearrange(residual, "b p t c -> b t p c")),
            "b t (h w) c -> b t h w c",
            h=h,
        )

    def _mask(self, t: int) -> Bool[Array, "t t"] | None:
        return directed_mask(t) if self.mask is TemporalMask.DIRECTED else None


def directed_mask(t: int) -> Bool[Array, "t t"]:
    """Causal mask: row i attends to columns j <= i."""
    return jnp.tril(jnp.ones((t, t), bool))


def attend_directed_post_softmax(
    q: Float[Array, "*b t n d"], k: Float[Array, "*b t n d"], v: Float[Array, "*b t n d"]
) -> Float[Array, "*b t n d"]:
    """Attention masked after the softmax, so that rows do not sum to 1
    (`TemporalMask.POST_SOFTMAX`).
    """
    scores = (
        jnp.einsum("...ind,...jnd->...nij", q, k, preferred_element_type=jnp.float32)
        * q.shape[-1] ** -0.5
    )
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    weights = weights * directed_mask(q.shape[-3]).reshape(
        (1,) * (weights.ndim - 2) + (q.shape[-3],) * 2
    )
    return jnp.einsum("...nij,...jnd->...ind", weights.astype(v.dtype), v)


def apply_rope(
    x: Float[Array, "*b t n d"], *, first: int = 0, rotated: int = 32
) -> Float[Array, "*b t n d"]:
    """Apply rotary position embedding over frames (Su et al. 2104.09864) to the first channels of
    each head.

    `rotated` is their number, as in LaVie; `first` is the position of the first frame.
    """
    rotated = min(rotated, x.shape[-1] // 2 * 2)
    frequency = 10_000.0 ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated)
    angle = (first + jnp.arange(x.shape[-3], dtype=jnp.float32))[:, None] * frequency[None]
    angle = angle.reshape((1,) * (x.ndim - 3) + (x.shape[-3], 1, rotated // 2))
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


def temporal_shift(z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """Take a third of the channels from frame i-1 and a third from frame i+1, with zeros beyond
    the ends.
    """
    third = z.shape[-1] // 3
    past, future, present = z[..., :third], z[..., third : 2 * third], z[..., 2 * third :]
    past = jnp.pad(past[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    future = jnp.pad(future[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([past, future, present], axis=-1)
