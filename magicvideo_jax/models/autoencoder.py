"""Auto-encoder of any kind that a configuration names, with the interface of `AutoencoderKL`.

Pixels are in [-1, 1], latents unscaled; methods are `encode`, `decode` and `decode_next`.
"""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.pixel_autoencoder import PixelAutoencoder
from magicvideo_jax.models.taesd import TAESDDecoder, TAESDEncoder
from magicvideo_jax.models.vae import AutoencoderKL, VAEConfig, VAEKind
from magicvideo_jax.models.video_vae import TemporalCache

DETERMINISTIC_LOG_VARIANCE = -30.0
"""Log-variance of a deterministic encoder: a standard deviation of e^-15 is negligible."""


def autoencoder(config: VAEConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """Auto-encoder with fresh parameters."""
    match config.kind:
        case VAEKind.KL:
            return AutoencoderKL(config, keys=keys, dtype=dtype)
        case VAEKind.TAESD:
            return TAESDAutoencoder(config, keys=keys, dtype=dtype)
        case VAEKind.PIXELS:
            return PixelAutoencoder(config)


class TAESDAutoencoder(nnx.Module):
    """TAESD with the interface of `AutoencoderKL` and the parameters of `TinyAutoencoder`.

    TAESD itself has pixels in [0, 1] and scaled latents.
    """

    def __init__(self, config: VAEConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        self.encoder, self.decoder = (
            TAESDEncoder(keys=keys),
            TAESDDecoder(config.temporal, keys=keys),
        )
        self.scaling, self.channels, self.dtype = config.scaling, config.latent_channels, dtype

    def encode(
        self, x: Float[Array, "*b h w 3"]
    ) -> tuple[Float[Array, "*b h2 w2 z"], Float[Array, "*b h2 w2 z"]]:
        """Mean of the latents, and `DETERMINISTIC_LOG_VARIANCE`."""
        mean = self.encoder(((x + 1) / 2).astype(self.dtype)).astype(jnp.float32) / self.scaling
        return mean, jnp.full_like(mean, DETERMINISTIC_LOG_VARIANCE)

    def decode(
        self, z: Float[Array, "*b h w z"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        """Decode latents (see `AutoencoderKL.decode`)."""
        return _pixels(self.decoder(self._scaled(z), as_images=as_images))

    def decode_next(
        self, z: Float[Array, "b t h w z"], cache: TemporalCache | None
    ) -> tuple[Float[Array, "b t h2 w2 3"], TemporalCache | None]:
        """Decode the frames that follow others (see `AutoencoderKL.decode_next`)."""
        if not hasattr(self.decoder, "temporal"):
            return self.decode(z), None
        x, cache = self.decoder.decode_next(self._scaled(z), cache)
        return _pixels(x), cache

    def _scaled(self, z: Array) -> Array:
        if z.shape[-1] != self.channels:
            raise UserError(
                f"latents with {z.shape[-1]} channels: TAESD needs {self.channels}; "
                "decode with the VAE of these latents"
            )
        return (z * self.scaling).astype(self.dtype)


def _pixels(x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    return 2 * x.astype(jnp.float32) - 1
