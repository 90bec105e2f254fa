"""Attentions of LFDM's U-Net, each added to its input: over pixels, and over frames.

    full      softmax(q k^T / sqrt(d)) v                                      pixels of a frame, in the middle
    linear    softmax_d(q) / sqrt(d) (softmax_pixels(k)^T v)                  pixels of a frame (1812.01243)
    frames    softmax(rotated q k^T / sqrt(d) + B) v                          frames of a pixel

The norm before them has a scale and no bias. B is one table of relative biases for the whole
network.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.attention import attend, attend_frames
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layer_norm import layer_norm
from magicvideo_jax.models.layers import Linear
from magicvideo_jax.models.temporal_attention import apply_rope


class ScaleNorm(nnx.Module):
    """Layer normalisation without a bias."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return layer_norm(x, self.scale[...], jnp.zeros_like(self.scale[...]), eps=1e-5)


class _Attention(nnx.Module):
    """Projections that the attentions of this file share, and the sum with their input."""

    has_bias = False
    """Whether the projection of its result has a bias."""

    def __init__(self, channels: int, *, heads: int, head_width: int, keys: Keys):
        inside = heads * head_width
        self.norm = ScaleNorm(channels)
        self.to_qkv = Linear(channels, 3 * inside, bias=False, keys=keys)
        self.to_out = Linear(inside, channels, bias=self.has_bias, keys=keys)
        self.heads = heads

    def _project(self, x: Float[Array, "b t h w c"]) -> list[Float[Array, "b t p n d"]]:
        """Queries, keys and values of all pixels."""
        every = self.to_qkv(self.norm(x))
        parts = jnp.split(every, 3, axis=-1)
        return [rearrange(one, "b t h w (n d) -> b t (h w) n d", n=self.heads) for one in parts]

    def _add(
        self, x: Float[Array, "b t h w c"], attended: Float[Array, "b t p n d"]
    ) -> Float[Array, "b t h w c"]:
        y = self.to_out(rearrange(attended, "b t p n d -> b t p (n d)"))
        return x + y.reshape(x.shape)


class FlowPixelAttention(_Attention):
    """Attention over the pixels of each frame."""

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return self._add(x, attend(*self._project(x)))


class LinearPixelAttention(_Attention):
    """Attention over the pixels of each frame in time linear in their number (1812.01243)."""

    has_bias = True

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        q, k, v = self._project(x)
        q = jax.nn.softmax(q.astype(jnp.float32), axis=-1) * q.shape[-1] ** -0.5
        k = jax.nn.softmax(k.astype(jnp.float32), axis=2)
        context = jnp.einsum("btpnd,btpne->btnde", k.astype(v.dtype), v)
        return self._add(x, jnp.einsum("btnde,btpnd->btpne", context, q.astype(v.dtype)))


class FlowFrameAttention(_Attention):
    """Attention over the frames at each pixel, in both directions, with relative biases."""

    def __call__(
        self, x: Float[Array, "b t h w c"], bias: Float[Array, "n t t"]
    ) -> Float[Array, "b t h w c"]:
        q, k, v = self._project(x)
        return self._add(x, attend_frames(apply_rope(q), apply_rope(k), v, None, bias))
