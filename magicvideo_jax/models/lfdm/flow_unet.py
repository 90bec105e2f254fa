"""LFDM's U-Net of flow and occlusion (Ni et al. 2303.13744, section 3.3): VDM's (Ho et al.
2204.03458) with factorised attention over pixels and over frames.

    x = conv7x7([z_t, feature of the picture]),   r = x
    each level: Res, Res, linear attention over pixels, attention over frames
    heads on [x, r]: flow (2 channels), occlusion (1)

Norms of residual blocks are over all frames of a clip. The embedding that modulates them is
[time, class]. The feature is the same in all frames, so it is convolved once a clip.
"""

from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least, divides, not_empty
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import (
    Conv,
    Embedding,
    GroupNorm,
    Linear,
    Padding,
    gelu,
    upsample,
)
from magicvideo_jax.models.lfdm.flow_attention import (
    FlowFrameAttention,
    FlowPixelAttention,
    LinearPixelAttention,
)
from magicvideo_jax.models.rows import add_bias
from magicvideo_jax.models.temporal_attention import BUCKETS, relative_buckets
from magicvideo_jax.parallel.constraints import cast_kernel, gather_parameter

FLOW_CHANNELS = 3
"""Channels of its latents: (x, y) of the flow, and the occlusion scaled to [-1, 1]."""


class FlowUpsampling(Enum):
    """How a level doubles the size of its maps."""

    DECONVOLUTION = "deconvolution"
    NEAREST = "nearest"
    """Nearest-neighbour upsampling and a convolution with reflected edges (NATOPS)."""


@dataclass(frozen=True)
class FlowUNetConfig:
    """Sizes of the U-Net. The defaults are the published ones for flow of 32 x 32."""

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of the levels over `width`; each level but the last halves the maps."""
    heads: int = 8
    head_width: int = 32
    """Channels of an attention head, whatever the level's width."""
    groups: int = 8
    condition: int = 768
    """Numbers of a class's vector."""
    feature: int = 256
    """Channels of the picture's feature."""
    learned_null: bool = False
    """Whether the vector of no class is a parameter (NATOPS) or zeros."""
    upsampling: FlowUpsampling = FlowUpsampling.DECONVOLUTION

    def __post_init__(self) -> None:
        not_empty(self, "multipliers")
        at_least(1, self, "width", "heads", "condition", "feature")
        at_least(2, self, "head_width")
        divides(self.width, self, "groups", of="the width")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels."""
        return tuple(self.width * factor for factor in self.multipliers)

    @property
    def side_multiple(self) -> int:
        """Number that divides the sides of flow."""
        return 2 ** (len(self.multipliers) - 1)


class FlowResBlock(nnx.Module):
    """Residual block, modulated by an embedding if it has one."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, embedding: int = 0, keys: Keys):
        if embedding:
            self.mlp = Linear(embedding, 2 * outputs, keys=keys)
        self.conv1 = Conv(inputs, outputs, keys=keys)
        self.conv2 = Conv(outputs, outputs, keys=keys)
        self.norm1, self.norm2 = (
            GroupNorm(outputs, groups=groups, eps=1e-5, over_frames=True) for _ in range(2)
        )
        if inputs != outputs:
            self.res_conv = Conv(inputs, outputs, size=1, keys=keys)

    def __call__(
        self, x: Float[Array, "b t h w i"], embedding: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b t h w o"]:
        y = self.norm1(self.conv1(x))
        if embedding is not None:
            scale, shift = self.mlp.halves(jax.nn.silu(embedding))
            scale, shift = (one[:, None, None, None].astype(y.dtype) for one in (scale, shift))
            y = y * (1 + scale) + shift
        y = self.norm2(self.conv2(jax.nn.silu(y)), jax.nn.silu)
        return y + (self.res_conv(x) if hasattr(self, "res_conv") else x)


class FlowDownsample(Conv):
    """Convolution of 4 x 4 that halves maps."""

    def __init__(self, channels: int, *, keys: Keys):
        super().__init__(channels, channels, size=4, stride=2, keys=keys)


class FlowDeconv(Conv):
    """Transposed convolution of 4 x 4 that doubles maps. Its kernel is PyTorch's: `h w in out`,
    not flipped."""

    def __init__(self, channels: int, *, keys: Keys):
        super().__init__(channels, channels, size=4, keys=keys)

    def __call__(self, x: Float[Array, "*b h w i"]) -> Float[Array, "*b h2 w2 o"]:
        images = x.reshape(-1, *x.shape[-3:])
        kernel = gather_parameter(cast_kernel(self.kernel[...], x.dtype))
        y = jax.lax.conv_general_dilated(
            images,
            kernel[::-1, ::-1],
            window_strides=(1, 1),
            padding=((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return add_bias(y, self.bias[...]).reshape(*x.shape[:-3], *y.shape[-3:])


class FlowNearest(Conv):
    """Nearest-neighbour upsampling, then a convolution of reflected edges."""

    def __init__(self, channels: int, *, keys: Keys):
        super().__init__(channels, channels, padding=Padding.NONE, keys=keys)

    def __call__(self, x: Float[Array, "*b h w i"]) -> Float[Array, "*b h2 w2 o"]:
        around = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
        return super().__call__(jnp.pad(upsample(x), around, mode="reflect"))


_UPSAMPLING = {FlowUpsampling.DECONVOLUTION: FlowDeconv, FlowUpsampling.NEAREST: FlowNearest}


class FlowLevel(nnx.Module):
    """Two residual blocks and the attentions of a level."""

    def __init__(self, config: FlowUNetConfig, inputs: int, outputs: int, *, keys: Keys):
        embedding = 4 * config.width + config.condition
        heads = {"heads": config.heads, "head_width": config.head_width}
        self.resnets = nnx.List(
            [
                FlowResBlock(i, outputs, groups=config.groups, embedding=embedding, keys=keys)
                for i in (inputs, outputs)
            ]
        )
        self.pixel_attn = LinearPixelAttention(outputs, **heads, keys=keys)
        self.frame_attn = FlowFrameAttention(outputs, **heads, keys=keys)

    def __call__(
        self,
        x: Float[Array, "b t h w i"],
        embedding: Float[Array, "b d"],
        bias: Float[Array, "n t t"],
    ) -> Float[Array, "b t h w o"]:
        for block in self.resnets:
            x = block(x, embedding)
        return self.frame_attn(self.pixel_attn(x), bias)


class FlowHead(nnx.Module):
    """Residual block and projection to some channels of the result."""

    def __init__(self, config: FlowUNetConfig, outputs: int, *, keys: Keys):
        self.resnet = FlowResBlock(2 * config.width, config.width, groups=config.groups, keys=keys)
        self.proj = Conv(config.width, outputs, size=1, keys=keys)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w o"]:
        return self.proj(self.resnet(x))


class FlowUNet(nnx.Module):
    """Noise in flow and occlusion, given the feature of the first frame and the vector of a
    class."""

    def __init__(self, config: FlowUNetConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        width, widths = config.width, config.widths
        heads = {"heads": config.heads, "head_width": config.head_width}
        embedding = 4 * width + config.condition
        if config.learned_null:
            self.null_cond_emb = nnx.Param(jax.random.normal(keys(), (1, config.condition)))
        self.init_conv = Conv(
            FLOW_CHANNELS + config.feature, width, size=7, padding=Padding.THREE, keys=keys
        )
        self.init_temporal_attn = FlowFrameAttention(width, **heads, keys=keys)
        self.time_rel_pos_bias = Embedding(BUCKETS, config.heads, keys=keys, std=1.0)
        self.time_mlp1 = Linear(width, 4 * width, keys=keys)
        self.time_mlp2 = Linear(4 * width, 4 * width, keys=keys)

        pairs = list(zip((width, *widths[:-1]), widths, strict=True))
        self.downs = nnx.List([FlowLevel(config, i, o, keys=keys) for i, o in pairs])
        self.downsamples = nnx.List([FlowDownsample(o, keys=keys) for _, o in pairs[:-1]])
        self.mid_block1, self.mid_block2 = (
            FlowResBlock(
                widths[-1], widths[-1], groups=config.groups, embedding=embedding, keys=keys
            )
            for _ in range(2)
        )
        self.mid_spatial_attn = FlowPixelAttention(widths[-1], **heads, keys=keys)
        self.mid_temporal_attn = FlowFrameAttention(widths[-1], **heads, keys=keys)
        self.ups = nnx.List([FlowLevel(config, 2 * o, i, keys=keys) for i, o in pairs[::-1]])
        up = _UPSAMPLING[config.upsampling]
        self.upsamples = nnx.List([up(i, keys=keys) for i, _ in pairs[:0:-1]])
        self.flow_head = FlowHead(config, FLOW_CHANNELS - 1, keys=keys)
        self.occlusion_head = FlowHead(config, 1, keys=keys)
        self.dtype = dtype

    def __call__(
        self,
        z: Float[Array, "b t h w 3"],
        time: Float[Array, "b"],
        feature: Float[Array, "b h w f"],
        condition: Float[Array, "b d"],
        has_condition: Float[Array, "b"],
    ) -> Float[Array, "b t h w 3"]:
        """The noise in `z`. Where `has_condition` is 0, the class is ignored."""
        bias = self._bias(z.shape[1])
        embedding = jnp.concatenate(
            [self._embed_time(time), self._condition(condition, has_condition)], axis=-1
        )
        x = self._stem(z.astype(self.dtype), feature.astype(self.dtype))
        r = x
        x = self.init_temporal_attn(x, bias)
        kept = []
        for i, level in enumerate(self.downs):
            x = level(x, embedding, bias)
            kept.append(x)
            if i < len(self.downsamples):
                x = self.downsamples[i](x)
        x = self.mid_block1(x, embedding)
        x = self.mid_temporal_attn(self.mid_spatial_attn(x), bias)
        x = self.mid_block2(x, embedding)
        for i, level in enumerate(self.ups):
            x = level(jnp.concatenate([x, kept.pop()], axis=-1), embedding, bias)
            if i < len(self.upsamples):
                x = self.upsamples[i](x)
        x = jnp.concatenate([x, r], axis=-1)
        noise = jnp.concatenate([self.flow_head(x), self.occlusion_head(x)], axis=-1)
        return noise.astype(z.dtype)

    def _stem(
        self, z: Float[Array, "b t h w 3"], feature: Float[Array, "b h w f"]
    ) -> Float[Array, "b t h w c"]:
        """The first convolution, of z in each frame and of the feature once."""
        kernel = gather_parameter(cast_kernel(self.init_conv.kernel[...], z.dtype))
        of_frames = _convolve(
            rearrange(z, "b t h w c -> (b t) h w c"), kernel[:, :, :FLOW_CHANNELS]
        )
        of_clip = add_bias(
            _convolve(feature, kernel[:, :, FLOW_CHANNELS:]), self.init_conv.bias[...]
        )
        of_frames = rearrange(of_frames, "(b t) h w c -> b t h w c", b=len(z))
        return of_frames + of_clip[:, None]

    def _embed_time(self, time: Float[Array, "b"]) -> Float[Array, "b d"]:
        half = self.time_mlp1.kernel.shape[0] // 2
        frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
        angle = time.astype(jnp.float32)[:, None] * frequency[None]
        sinusoids = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
        return self.time_mlp2(gelu(self.time_mlp1(sinusoids)))

    def _condition(
        self, condition: Float[Array, "b d"], has_condition: Float[Array, "b"]
    ) -> Float[Array, "b d"]:
        null = self.null_cond_emb[...] if hasattr(self, "null_cond_emb") else 0.0
        return jnp.where(has_condition[:, None] > 0, condition, null)

    def _bias(self, t: int) -> Float[Array, "n t t"]:
        return jnp.moveaxis(self.time_rel_pos_bias(jnp.asarray(relative_buckets(t))), -1, 0)


def _convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "7 7 i o"]
) -> Float[Array, "b h w o"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
