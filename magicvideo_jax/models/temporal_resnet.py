"""Residual blocks over frames of LaVie's super-resolution network (2309.15103, section 3.4).

    R_k(z) = z + conv3(SiLU GN(conv_k(SiLU GN z) + W SiLU(emb)))      convolutions over k and 3 frames
    P(z)   = z + conv1x1(S(R_5(z)))                                   S: a residual block within frames

Norms take their statistics over all frames of a clip. All are identities at initialisation.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.blocks import ResnetBlock
from magicvideo_jax.models.layers import Conv, FrameConv, GroupNorm, Linear
from magicvideo_jax.models.temporal_places import Site

_EPS = 1e-6


class TemporalResnet(nnx.Module):
    """R_k with convolutions over `frames` and over 3 frames, zeros beyond the ends of a clip."""

    def __init__(self, site: Site, *, frames: int, hears_time: bool, zero: bool = True):
        channels, keys = site.channels, site.keys
        self.norm1 = GroupNorm(channels, groups=site.groups, eps=_EPS, over_frames=True)
        self.conv1 = FrameConv(channels, channels, frames=frames, keys=keys)
        if hears_time:
            self.time_emb_proj = Linear(site.embedding, channels, keys=keys)
        self.norm2 = GroupNorm(channels, groups=site.groups, eps=_EPS, over_frames=True)
        self.conv2 = FrameConv(channels, channels, frames=3, keys=keys, zero=zero)

    def __call__(
        self, z: Float[Array, "b t h w c"], emb: Float[Array, "b 1 d"] | None = None
    ) -> Float[Array, "b t h w c"]:
        h = self.conv1(self.norm1(z, jax.nn.silu))
        if emb is not None:
            h = h + jnp.broadcast_to(self.time_emb_proj(emb)[..., None, None, :], h.shape)
        return z + self.conv2(self.norm2(h, jax.nn.silu))


class TemporalResnetPair(nnx.Module):
    """P: a residual block over frames and one within frames, added through a 1x1 convolution."""

    def __init__(self, site: Site):
        self.over_frames = TemporalResnet(site, frames=5, hears_time=True, zero=False)
        self.within_frames = ResnetBlock(
            site.channels,
            site.channels,
            groups=site.groups,
            eps=_EPS,
            keys=site.keys,
            embedding=site.embedding,
            norm_over_frames=True,
        )
        self.shift_conv = Conv(site.channels, site.channels, size=1, keys=site.keys, zero=True)

    def __call__(
        self, z: Float[Array, "b t h w c"], emb: Float[Array, "b 1 d"]
    ) -> Float[Array, "b t h w c"]:
        return z + self.shift_conv(self.within_frames(self.over_frames(z, emb), emb))
