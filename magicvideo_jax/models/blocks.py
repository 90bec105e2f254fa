"""Blocks of Stable Diffusion's U-Net and VAE, with the temporal parts of MagicVideo that a
`TemporalConfig` adds.

MagicVideo's keyframe block (figure 3b):

    conv (per frame) -> adaptor_i --+-------------------- directed temporal attention ---------------+
                                    |                                                               (+) ->
                                    +-> self-attention -> adaptor'_i -> cross-attention -> GEGLU ----+

Attribute names are those of diffusers, so that parameter paths read like diffusers' weight keys.
"""

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, GroupNorm, LayerNorm, Linear, Padding, gelu, upsample
from magicvideo_jax.models.temporal import (
    FrameAdaptor,
    TemporalAttention,
    TemporalConfig,
    TemporalMixing,
    temporal_shift,
)


class ResnetBlock(nnx.Module):
    """Residual block: norm, SiLU, conv, (+ W emb), norm, SiLU, conv, + shortcut; an adaptor after
    each convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        eps: float,
        keys: Keys,
        embedding: int | None = None,
        temporal: TemporalConfig | None = None,
    ):
        self.norm1 = GroupNorm(inputs, groups=groups, eps=eps)
        self.conv1 = Conv(inputs, outputs, keys=keys)
        if embedding is not None:
            self.time_emb_proj = Linear(embedding, outputs, keys=keys)
        self.norm2 = GroupNorm(outputs, groups=groups, eps=eps)
        self.conv2 = Conv(outputs, outputs, keys=keys, zero=True)
        if inputs != outputs:
            self.conv_shortcut = Conv(inputs, outputs, keys=keys, size=1)
        if temporal and temporal.adaptors:
            self.adaptor1 = FrameAdaptor(temporal.frames, outputs)
            self.adaptor2 = FrameAdaptor(temporal.frames, outputs)
        self.shifts = temporal is not None and temporal.mixing is TemporalMixing.SHIFT

    def __call__(
        self,
        z: Float[Array, "*b h w c"],
        emb: Float[Array, "*b2 d"] | None = None,
        *,
        as_images: bool = True,
    ) -> Float[Array, "*b h w c2"]:
        adapts = hasattr(self, "adaptor1") and not as_images
        h = temporal_shift(z) if self.shifts and not as_images else z
        h = self.conv1(jax.nn.silu(self.norm1(h)))
        h = self.adaptor1(h) if adapts else h
        if emb is not None:
            h = h + self.time_emb_proj(emb)[..., None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        h = self.adaptor2(h) if adapts else h
        return h + (self.conv_shortcut(z) if hasattr(self, "conv_shortcut") else z)


class Attention(nnx.Module):
    """Multi-head cross-attention from tokens to `context`, or self-attention without one."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        keys: Keys,
        context: int | None = None,
        qkv_bias: bool = False,
    ):
        source = channels if context is None else context
        self.to_q = Linear(channels, channels, keys=keys, bias=qkv_bias)
        self.to_k = Linear(source, channels, keys=keys, bias=qkv_bias)
        self.to_v = Linear(source, channels, keys=keys, bias=qkv_bias)
        self.to_out = Linear(channels, channels, keys=keys)
        self.heads = heads

    def __call__(
        self, x: Float[Array, "*b l c"], context: Float[Array, "*b m d"] | None = None
    ) -> Float[Array, "*b l c"]:
        source = x if context is None else context
        q, k, v = (
            rearrange(y, "... l (n d) -> ... l n d", n=self.heads)
            for y in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        return self.to_out(rearrange(attend(q, k, v), "... l n d -> ... l (n d)"))


class FeedForward(nnx.Module):
    """GEGLU feed-forward (Shazeer 2002.05202): W_out (a * GELU(b)), [a, b] = W_in x, with the
    exact GELU.
    """

    def __init__(self, channels: int, *, keys: Keys):
        self.proj_in = Linear(channels, 8 * channels, keys=keys)
        self.proj_out = Linear(4 * channels, channels, keys=keys)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        a, b = self.proj_in.halves(x)
        return self.proj_out(a * gelu(b))


class TransformerBlock(nnx.Module):
    """Self-attention within each frame, cross-attention to the text, and feed-forward, as pre-norm
    residuals.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context: int,
        keys: Keys,
        temporal: TemporalConfig | None = None,
    ):
        self.norm1 = LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, keys=keys)
        self.norm2 = LayerNorm(channels)
        self.attn2 = Attention(channels, heads=heads, context=context, keys=keys)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels, keys=keys)
        if temporal and temporal.adaptors:
            self.adaptor = FrameAdaptor(temporal.frames, channels)
        if temporal and temporal.mixing is TemporalMixing.LAVIE:
            self.temporal = TemporalAttention(temporal, channels, heads=heads, keys=keys)

    def __call__(
        self, z: Float[Array, "b t h w c"], text: Float[Array, "b l d"], *, as_images: bool
    ) -> Float[Array, "b t h w c"]:
        b, t, h, w, c = z.shape
        attended = self.attn1(self.norm1(z.reshape(b, t, h * w, c))).reshape(z.shape)
        z = z + (self.adaptor(attended) if hasattr(self, "adaptor") and not as_images else attended)
        # All frames of a clip attend to the same text: one long query per clip instead of t copies
        # of the text.
        z = z + self.attn2(self.norm2(z.reshape(b, t * h * w, c)), text).reshape(z.shape)
        if hasattr(self, "temporal") and not as_images:
            z = z + self.temporal(z)
        return z + self.ff(self.norm3(z))


class SpatialTransformer(nnx.Module):
    """Transformer blocks over the pixels of each frame, with temporal attention in parallel or in
    sequence.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context: int,
        groups: int,
        linear_projection: bool,
        keys: Keys,
        temporal: TemporalConfig | None = None,
    ):
        self.norm = GroupNorm(channels, groups=groups, eps=1e-6)
        if linear_projection:
            self.proj_in = Linear(channels, channels, keys=keys)
        else:
            self.proj_in = Conv(channels, channels, keys=keys, size=1)
        self.transformer_blocks = nnx.List(
            [TransformerBlock(channels, heads=heads, context=context, keys=keys, temporal=temporal)]
        )
        if linear_projection:
            self.proj_out = Linear(channels, channels, keys=keys, zero=True)
        else:
            self.proj_out = Conv(channels, channels, keys=keys, size=1, zero=True)
        if temporal and temporal.mixing in (TemporalMixing.PARALLEL, TemporalMixing.SEQUENTIAL):
            self.temporal = TemporalAttention(temporal, channels, heads=heads, keys=keys)
            self.parallel = temporal.mixing is TemporalMixing.PARALLEL

    def __call__(
        self, z: Float[Array, "b t h w c"], text: Float[Array, "b l d"], *, as_images: bool
    ) -> Float[Array, "b t h w c"]:
        h = self.proj_in(self.norm(z))
        for block in self.transformer_blocks:
            h = block(h, text, as_images=as_images)
        spatial = z + self.proj_out(h)
        if not hasattr(self, "temporal") or as_images:
            return spatial
        return spatial + self.temporal(z if self.parallel else spatial)


class Downsampler(nnx.Module):
    """Downsampling by a convolution with stride 2."""

    def __init__(self, channels: int, *, padding: Padding, keys: Keys):
        self.conv = Conv(channels, channels, stride=2, padding=padding, keys=keys)

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
        return self.conv(z)


class Upsampler(nnx.Module):
    """Nearest-neighbour upsampling by 2, then a convolution.

    `size` crops the result to the size on the way down, where that was odd.
    """

    def __init__(self, channels: int, *, keys: Keys):
        self.conv = Conv(channels, channels, keys=keys)

    def __call__(
        self, z: Float[Array, "*b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "*b h2 w2 c"]:
        doubled = upsample(z)
        return self.conv(doubled if size is None else doubled[..., : size[0], : size[1], :])
