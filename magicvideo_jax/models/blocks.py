"""Blocks of Stable Diffusion's U-Net and VAE, with places for temporal layers
(`temporal_places.py`).

MagicVideo's keyframe block (figure 3b):

    conv (per frame) -> adaptor_i --+-------------------- directed temporal attention ---------------+
                                    |                                                               (+) ->
                                    +-> self-attention -> adaptor'_i -> cross-attention -> GEGLU ----+

Attribute names are those of diffusers, so that parameter paths read like diffusers' weight keys.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, GroupNorm, LayerNorm, Linear, Padding, gelu, upsample
from magicvideo_jax.models.remat import keep_product
from magicvideo_jax.models.rows import broadcast_pixels, materialise
from magicvideo_jax.models.temporal_places import Place, Site, TemporalLayer, WithPlaces


class ResnetBlock(WithPlaces):
    """Residual block: norm, SiLU, conv, (+ W emb), norm, SiLU, conv, + shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        eps: float,
        keys: Keys,
        embedding: int | None = None,
        layers: Sequence[TemporalLayer] = (),
        norm_over_frames: bool = False,
    ):
        self.norm1 = GroupNorm(inputs, groups=groups, eps=eps, over_frames=norm_over_frames)
        self.conv1 = Conv(inputs, outputs, keys=keys)
        if embedding is not None:
            self.time_emb_proj = Linear(embedding, outputs, keys=keys)
        self.norm2 = GroupNorm(outputs, groups=groups, eps=eps, over_frames=norm_over_frames)
        self.conv2 = Conv(outputs, outputs, keys=keys, zero=True)
        if inputs != outputs:
            self.conv_shortcut = Conv(inputs, outputs, keys=keys, size=1)
        site = Site(outputs, 0, groups, embedding or 0, keys)
        self.insert(layers, site, Place.RESNET_INPUT, Place.FIRST_CONV, Place.SECOND_CONV)

    def __call__(
        self, z: Float[Array, "*b h w c"], emb: Float[Array, "*b2 d"] | None = None
    ) -> Float[Array, "*b h w c2"]:
        h = self.at(Place.RESNET_INPUT, z)
        h = self.at(Place.FIRST_CONV, self.conv1(self.norm1(h, jax.nn.silu)))
        if emb is not None:
            rows = self.time_emb_proj(emb)
            rows = jnp.broadcast_to(rows, (*h.shape[:-3], rows.shape[-1]))
            h = materialise(h + broadcast_pixels(rows, h))
        h = self.at(Place.SECOND_CONV, self.conv2(self.norm2(h, jax.nn.silu)))
        return h + (self.conv_shortcut(z) if hasattr(self, "conv_shortcut") else z)


class Attention(WithPlaces):
    """Multi-head cross-attention from tokens to `context`, whose leading axes may broadcast, or
    self-attention without one.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        keys: Keys,
        context: int | None = None,
        qkv_bias: bool = False,
        layers: Sequence[TemporalLayer] = (),
    ):
        source = channels if context is None else context
        self.to_q = Linear(channels, channels, keys=keys, bias=qkv_bias)
        self.to_k = Linear(source, channels, keys=keys, bias=qkv_bias)
        self.to_v = Linear(source, channels, keys=keys, bias=qkv_bias)
        self.to_out = Linear(channels, channels, keys=keys)
        self.heads = heads
        self.insert(layers, Site(channels, heads, 1, 0, keys), Place.SELF_ATTENTION_KEYS)

    def __call__(
        self, x: Float[Array, "*b l c"], context: Float[Array, "*#b m d"] | None = None
    ) -> Float[Array, "*b l c"]:
        source = x if context is None else context
        q, k, v = (
            rearrange(y, "... l (n d) -> ... l n d", n=self.heads)
            for y in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        k, v = (self.at(Place.SELF_ATTENTION_KEYS, y) for y in (k, v))
        k, v = (jnp.broadcast_to(y, (*q.shape[:-3], *y.shape[-3:])) for y in (k, v))
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


class TransformerBlock(WithPlaces):
    """Self-attention within each frame, cross-attention to the text, and feed-forward, as pre-norm
    residuals.

    With `text_only` the first attention, too, attends to the text (the x4 upscaler's outer levels).
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context: int,
        groups: int,
        keys: Keys,
        text_only: bool = False,
        text_by_frame: bool = False,
        layers: Sequence[TemporalLayer] = (),
    ):
        self.norm1 = LayerNorm(channels)
        if text_only:
            self.attn1 = Attention(channels, heads=heads, context=context, keys=keys)
        else:
            self.attn1 = Attention(channels, heads=heads, keys=keys, layers=layers)
        self.norm2 = LayerNorm(channels)
        self.attn2 = Attention(channels, heads=heads, context=context, keys=keys)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels, keys=keys)
        self.text_only, self.text_by_frame = text_only, text_by_frame
        places = Place.SELF_ATTENTION, Place.CROSS_ATTENTION, Place.FEED_FORWARD
        self.insert(layers, Site(channels, heads, groups, 0, keys), *places)

    def __call__(
        self, z: Float[Array, "b t h w c"], text: Float[Array, "b l d"]
    ) -> Float[Array, "b t h w c"]:
        if self.text_only:
            attended = self._to_text(self.attn1, self.norm1(z), text)
        else:
            b, t, h, w, c = z.shape
            attended = self.attn1(self.norm1(z.reshape(b, t, h * w, c))).reshape(z.shape)
        z = z + self.at(Place.SELF_ATTENTION, attended)
        z = self.added_at(Place.CROSS_ATTENTION, z + self._to_text(self.attn2, self.norm2(z), text))
        return self.added_at(Place.FEED_FORWARD, z + self.ff(self.norm3(z)))

    def _to_text(
        self, attention: Attention, x: Float[Array, "b t h w c"], text: Float[Array, "b l d"]
    ) -> Float[Array, "b t h w c"]:
        b, t, *_, c = x.shape
        if self.text_by_frame:
            return attention(x.reshape(b, t, -1, c), text[:, None]).reshape(x.shape)
        # All frames of a clip attend to the same text: one long query per clip instead of t copies
        # of the text.
        return attention(x.reshape(b, -1, c), text).reshape(x.shape)


class SpatialTransformer(WithPlaces):
    """Transformer blocks over the pixels of each frame."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context: int,
        groups: int,
        linear_projection: bool,
        keys: Keys,
        text_only: bool = False,
        text_by_frame: bool = False,
        layers: Sequence[TemporalLayer] = (),
    ):
        self.norm = GroupNorm(channels, groups=groups, eps=1e-6)
        if linear_projection:
            self.proj_in = Linear(channels, channels, keys=keys)
        else:
            self.proj_in = Conv(channels, channels, keys=keys, size=1)
        self.transformer_blocks = nnx.List(
            [
                TransformerBlock(
                    channels,
                    heads=heads,
                    context=context,
                    groups=groups,
                    keys=keys,
                    text_only=text_only,
                    text_by_frame=text_by_frame,
                    layers=layers,
                )
            ]
        )
        if linear_projection:
            self.proj_out = Linear(channels, channels, keys=keys, zero=True)
        else:
            self.proj_out = Conv(channels, channels, keys=keys, size=1, zero=True)
        places = Place.TRANSFORMER_INPUT, Place.BESIDE_TRANSFORMER, Place.TRANSFORMER_OUTPUT
        self.insert(layers, Site(channels, heads, groups, 0, keys), *places)

    def __call__(
        self, z: Float[Array, "b t h w c"], text: Float[Array, "b l d"]
    ) -> Float[Array, "b t h w c"]:
        z = self.at(Place.TRANSFORMER_INPUT, z)
        h = self.proj_in(self.norm(z))
        for block in self.transformer_blocks:
            h = block(h, text)
        spatial = self.added_at(Place.BESIDE_TRANSFORMER, z + self.proj_out(h), of=z)
        return self.added_at(Place.TRANSFORMER_OUTPUT, spatial)


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
        # The backward pass keeps z, not the convolution's input, which is four times as large.
        @jax.checkpoint
        def convolve(z: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
            doubled = upsample(z)
            return self.conv(doubled if size is None else doubled[..., : size[0], : size[1], :])

        return keep_product(convolve(z), inputs=z.shape[-1])
