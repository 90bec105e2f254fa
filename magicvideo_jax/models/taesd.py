"""TAESD: a tiny auto-encoder for Stable Diffusion's latents (github.com/madebyollin/taesd), for
previews.

Pixels are in [0, 1]; latents are scaled. Layers have their indices in the published sequential
models, which are the names in weight files (`3.conv.0.weight`). With a `TemporalDecoderConfig` the
decoder has the temporal layers of a VideoVAE.
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, upsample
from magicvideo_jax.models.video_vae import (
    TemporalCache,
    TemporalDecoderConfig,
    TemporalDecoderLayers,
)

_WIDTH, _LATENT, _LEVELS = 64, 4, 3
DECODER_WIDTHS = (_WIDTH,) * (_LEVELS + 1)
"""Channels of the decoder after 0, 1 .. upsamplings."""


class TinyAutoencoder(nnx.Module):
    """TAESD's encoder and decoder, which also work alone."""

    def __init__(
        self,
        *,
        keys: Keys,
        dtype: DTypeLike = jnp.float32,
        temporal: TemporalDecoderConfig | None = None,
    ):
        self.encoder, self.decoder = TAESDEncoder(keys=keys), TAESDDecoder(temporal, keys=keys)
        self.dtype = dtype

    def encode(self, x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h2 w2 4"]:
        return self.encoder(x.astype(self.dtype)).astype(jnp.float32)

    def decode(
        self, z: Float[Array, "*b h w 4"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        """Decode scaled latents (see `AutoencoderKL.decode`)."""
        return self.decoder(z.astype(self.dtype), as_images=as_images).astype(jnp.float32)

    def decode_next(
        self, z: Float[Array, "b t h w 4"], cache: TemporalCache | None
    ) -> tuple[Float[Array, "b t h2 w2 3"], TemporalCache | None]:
        """Decode the frames that follow others (see `AutoencoderKL.decode_next`)."""
        if not hasattr(self.decoder, "temporal"):
            return self.decode(z), None
        x, cache = self.decoder.decode_next(z.astype(self.dtype), cache)
        return x.astype(jnp.float32), cache

    def __call__(self, x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
        """Reconstruct images."""
        return self.decode(self.encode(x))


class TAESDBlock(nnx.Module):
    """Residual block: relu(conv(relu(conv(relu(conv(x))))) + x)."""

    def __init__(self, *, keys: Keys):
        self.conv = nnx.List([Conv(_WIDTH, _WIDTH, keys=keys) for _ in range(3)])

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        first, second, third = self.conv
        return jax.nn.relu(third(jax.nn.relu(second(jax.nn.relu(first(x))))) + x)


class Clamp(nnx.Module):
    """Soft clamp 3 tanh(z / 3), which bounds outliers of the latents."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        return 3 * jnp.tanh(z / 3)


class ReLU(nnx.Module):
    """ReLU as a layer, because it has an index in the sequential decoder."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        return jax.nn.relu(z)


class Upsample(nnx.Module):
    """Nearest-neighbour upsampling as a layer, because it has an index in the sequential decoder."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
        return upsample(z)


class TAESDEncoder(nnx.Module):
    """Encoder with three downsamplings."""

    def __init__(self, *, keys: Keys):
        layers: list[nnx.Module] = [Conv(3, _WIDTH, keys=keys), TAESDBlock(keys=keys)]
        for _ in range(3):
            layers.append(Conv(_WIDTH, _WIDTH, stride=2, bias=False, keys=keys))
            layers += [TAESDBlock(keys=keys) for _ in range(3)]
        self.layers = nnx.List([*layers, Conv(_WIDTH, _LATENT, keys=keys)])

    def __call__(self, x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h2 w2 4"]:
        for layer in self.layers:
            x = layer(x)
        return x


class TAESDDecoder(nnx.Module):
    """Decoder with three upsamplings."""

    def __init__(self, temporal: TemporalDecoderConfig | None = None, *, keys: Keys):
        layers: list[nnx.Module] = [Clamp(), Conv(_LATENT, _WIDTH, keys=keys), ReLU()]
        for _ in range(_LEVELS):
            layers += [TAESDBlock(keys=keys) for _ in range(3)]
            layers += [Upsample(), Conv(_WIDTH, _WIDTH, bias=False, keys=keys)]
        self.layers = nnx.List([*layers, TAESDBlock(keys=keys), Conv(_WIDTH, 3, keys=keys)])
        if temporal is not None:
            self.temporal = TemporalDecoderLayers(temporal, DECODER_WIDTHS, keys=keys)

    def __call__(
        self, z: Float[Array, "*b h w 4"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        if hasattr(self, "temporal") and not as_images and z.ndim == 5:
            return self.decode_next(z)[0]
        return self._run(z, 0, len(self.layers))

    def decode_next(
        self, z: Float[Array, "b t h w 4"], cache: TemporalCache | None = None
    ) -> tuple[Float[Array, "b t h2 w2 3"], TemporalCache]:
        """Decode the frames that follow those of the cache, or the first frames without one.

        Temporal layers follow the stem and the upsamplings.
        """
        ends = [0, *range(3, len(self.layers), 5)]
        blocks = [partial(self._run, first=first, end=end) for first, end in pairwise(ends)]
        h, cache = self.temporal.run_blocks(blocks, z, cache)
        return self._run(h, ends[-1], len(self.layers)), cache

    def _run(
        self, z: Float[Array, "*b h w c"], first: int, end: int
    ) -> Float[Array, "*b h2 w2 c2"]:
        for layer in list(self.layers)[first:end]:
            z = layer(z)
        return z
