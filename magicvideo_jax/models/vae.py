"""AutoencoderKL, Stable Diffusion's image VAE.

All leading axes are batch axes: clips are encoded frame by frame, and also decoded frame by frame
unless the configuration adds the temporal layers of a VideoVAE (`video_vae.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import (
    FieldError,
    at_least,
    divides,
    named,
    not_empty,
    positive,
    refused,
)
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.blocks import Attention, Downsampler, ResnetBlock, Upsampler
from magicvideo_jax.models.layers import Conv, GroupNorm, Padding
from magicvideo_jax.models.taesd import DECODER_WIDTHS as TAESD_WIDTHS
from magicvideo_jax.models.video_vae import (
    TemporalCache,
    TemporalDecoderConfig,
    TemporalDecoderLayers,
)


class VAEKind(Enum):
    """Architecture of an auto-encoder."""

    KL = "kl"
    """AutoencoderKL."""
    TAESD = "taesd"
    """TAESD, a tiny auto-encoder of fixed size for Stable Diffusion's latents. Its encoder is
    deterministic."""
    PIXELS = "pixels"
    """Pixels themselves, those of a square as the channels of one latent: exact, and without
    parameters (`pixel_autoencoder.py`)."""


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of a VAE. The defaults are Stable Diffusion's."""

    kind: VAEKind = VAEKind.KL
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    """Residual blocks per level of the encoder. The decoder has one more."""
    channels: int = 3
    latent_channels: int = 4
    groups: int = 32
    scaling: float = 0.18215
    """Factor from the latents of the VAE to those of the diffusion model."""
    temporal: TemporalDecoderConfig | None = None
    """Temporal layers of a VideoVAE; None: an image VAE."""

    def __post_init__(self) -> None:
        not_empty(self, "widths")
        if min(self.widths) < 1:
            raise refused(self, "widths", "give at least 1 for each")
        at_least(1, self, "blocks", "channels", "latent_channels")
        positive(self, "scaling")
        if self.kind is VAEKind.KL:
            for i, width in enumerate(self.widths):
                divides(width, self, "groups", of=f"widths[{i}]")
        if self.kind is VAEKind.PIXELS:
            if self.channels * self.factor**2 != self.latent_channels:
                advice = f"give {self.channels} times a square, as 48 for RGB and a factor of 4"
                raise refused(self, "latent_channels", advice)
            if self.temporal is not None:
                raise FieldError("temporal: pixels need no decoder: leave it out")
        if self.temporal is not None:
            with named("temporal."):
                self.temporal.check(self.decoder_widths)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder after 0, 1 .. up levels, which are the places of temporal
        layers.
        """
        if self.kind is VAEKind.TAESD:
            return TAESD_WIDTHS
        return self.widths[-1], *reversed(self.widths)

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to learn, and to read from a file."""
        return self.kind is not VAEKind.PIXELS

    @property
    def factor(self) -> int:
        """Pixels per latent along h and w."""
        if self.kind is VAEKind.PIXELS:
            return math.isqrt(self.latent_channels // self.channels)
        return 2 ** (len(self.widths) - 1)


_EPS = 1e-6
# Bounds of the published implementation, against numerical accidents.
_LOG_VARIANCE = (-30.0, 20.0)


class AutoencoderKL(nnx.Module):
    """Auto-encoder between pixels in [-1, 1] and Gaussians over unscaled latents."""

    def __init__(self, config: VAEConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        latent = config.latent_channels
        self.encoder = VAEEncoder(config, keys=keys)
        self.quant_conv = Conv(2 * latent, 2 * latent, size=1, keys=keys)
        self.post_quant_conv = Conv(latent, latent, size=1, keys=keys)
        self.decoder = VAEDecoder(config, keys=keys)
        self.dtype = dtype

    def encode(
        self, x: Float[Array, "*b h w c"]
    ) -> tuple[Float[Array, "*b h2 w2 z"], Float[Array, "*b h2 w2 z"]]:
        """Mean and log-variance of q(z | x), in float32."""
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCE)

    def decode(
        self, z: Float[Array, "*b h w z"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 c"]:
        """Pixels in about [-1, 1], in float32.

        A VideoVAE applies its temporal layers to clips (b t h w z), except with `as_images`, and
        not to images (b h w z). Errors: `UserError` where the number of latent channels is wrong.
        """
        self._check(z)
        return self.decoder(self.post_quant_conv(z.astype(self.dtype)), as_images=as_images).astype(
            jnp.float32
        )

    def decode_next(
        self, z: Float[Array, "b t h w z"], cache: TemporalCache | None
    ) -> tuple[Float[Array, "b t h2 w2 c"], TemporalCache | None]:
        """Decode the frames that follow those of the cache, and return the cache for the next
        frames.

        The cache is None before the first frame, and always for an image VAE.
        """
        if not hasattr(self.decoder, "temporal"):
            return self.decode(z), None
        self._check(z)
        x, cache = self.decoder.decode_next(self.post_quant_conv(z.astype(self.dtype)), cache)
        return x.astype(jnp.float32), cache

    def _check(self, z: Array) -> None:
        channels = self.post_quant_conv.kernel.shape[-2]
        if z.shape[-1] != channels:
            raise UserError(
                f"latents with {z.shape[-1]} channels: this VAE needs {channels}; decode with the VAE of these latents"
            )

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Reconstruct images from the mean of their latents."""
        return self.decode(self.encode(x)[0])


class VAEEncoder(nnx.Module):
    """Encoder from pixels to the moments of latents. Downsampling pads only at the end."""

    def __init__(self, config: VAEConfig, *, keys: Keys):
        widths, groups = config.widths, config.groups
        self.conv_in = Conv(config.channels, widths[0], keys=keys)
        self.down_blocks = nnx.List([])
        width = widths[0]
        for i, out in enumerate(widths):
            resnets = _resnets([width] + [out] * (config.blocks - 1), out, groups=groups, keys=keys)
            is_last = i == len(widths) - 1
            self.down_blocks.append(
                VAELevel(
                    resnets, None if is_last else Downsampler(out, padding=Padding.END, keys=keys)
                )
            )
            width = out
        self.mid_block = VAEMiddle(width, groups=groups, keys=keys)
        self.conv_norm_out = GroupNorm(width, groups=groups, eps=_EPS)
        self.conv_out = Conv(width, 2 * config.latent_channels, keys=keys)

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 z"]:
        h = self.conv_in(x)
        for level in self.down_blocks:
            h = level(h)
        h = self.mid_block(h)
        return self.conv_out(self.conv_norm_out(h, jax.nn.silu))


class VAEDecoder(nnx.Module):
    """Decoder from latents to pixels."""

    def __init__(self, config: VAEConfig, *, keys: Keys):
        widths, groups = tuple(reversed(config.widths)), config.groups
        self.conv_in = Conv(config.latent_channels, widths[0], keys=keys)
        self.mid_block = VAEMiddle(widths[0], groups=groups, keys=keys)
        self.up_blocks = nnx.List([])
        width = widths[0]
        for i, out in enumerate(widths):
            resnets = _resnets([width] + [out] * config.blocks, out, groups=groups, keys=keys)
            is_last = i == len(widths) - 1
            self.up_blocks.append(VAELevel(resnets, None if is_last else Upsampler(out, keys=keys)))
            width = out
        self.conv_norm_out = GroupNorm(width, groups=groups, eps=_EPS)
        self.conv_out = Conv(width, config.channels, keys=keys)
        if config.temporal is not None:
            self.temporal = TemporalDecoderLayers(config.temporal, config.decoder_widths, keys=keys)

    def __call__(
        self, z: Float[Array, "*b h w z"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 c"]:
        if hasattr(self, "temporal") and not as_images and z.ndim == 5:
            return self.decode_next(z)[0]
        for block in self._blocks():
            z = block(z)
        return self._pixels(z)

    def decode_next(
        self, z: Float[Array, "b t h w z"], cache: TemporalCache | None = None
    ) -> tuple[Float[Array, "b t h2 w2 c"], TemporalCache]:
        """Decode the frames that follow those of the cache, or the first frames without one."""
        h, cache = self.temporal.run_blocks(self._blocks(), z, cache)
        return self._pixels(h), cache

    def _blocks(self) -> list[Callable[[Array], Array]]:
        """Parts of the network between the places of temporal layers."""
        return [lambda z: self.mid_block(self.conv_in(z)), *self.up_blocks]

    def _pixels(self, h: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c2"]:
        return self.conv_out(self.conv_norm_out(h, jax.nn.silu))


class VAELevel(nnx.Module):
    """Residual blocks at one resolution, and the resampling to the next."""

    def __init__(self, resnets: list[ResnetBlock], resample: Downsampler | Upsampler | None):
        self.resnets = nnx.List(resnets)
        if resample is not None:
            self.resample = resample

    def __call__(self, h: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c2"]:
        for resnet in self.resnets:
            h = resnet(h)
        return self.resample(h) if hasattr(self, "resample") else h


class VAEMiddle(nnx.Module):
    """Residual block, single-head self-attention over the pixels, and residual block."""

    def __init__(self, width: int, *, groups: int, keys: Keys):
        self.resnets = nnx.List(_resnets([width, width], width, groups=groups, keys=keys))
        self.norm = GroupNorm(width, groups=groups, eps=_EPS)
        self.attention = Attention(width, heads=1, qkv_bias=True, keys=keys)

    def __call__(self, h: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        h = self.resnets[0](h)
        tokens = self.norm(h).reshape(*h.shape[:-3], -1, h.shape[-1])
        h = h + self.attention(tokens).reshape(h.shape)
        return self.resnets[1](h)


def _resnets(inputs: list[int], out: int, *, groups: int, keys: Keys) -> list[ResnetBlock]:
    return [ResnetBlock(width, out, groups=groups, eps=_EPS, keys=keys) for width in inputs]
