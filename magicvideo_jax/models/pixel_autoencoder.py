"""Pixels as latents, for diffusion in pixel space at the cost of a small picture.

The f x f pixels of a square become the channels of one latent (space to depth). Nothing is lost and
nothing is learned: there are no parameters.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.bicubic import enlarge_exactly
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.vae import VAEConfig


def enlarged_latents(x: Float[Array, "*b h w 3"], factor: int) -> Float[Array, "*b h w z"]:
    """Latents of pictures after bicubic resizing to `factor` times their height and width."""
    return _as_latents(enlarge_exactly(x, factor), factor)


class PixelAutoencoder(nnx.Module):
    """Exact auto-encoder between pixels in [-1, 1] and latents of 3 f^2 channels, with the interface of
    `AutoencoderKL`."""

    def __init__(self, config: VAEConfig):
        self.factor, self.channels = config.factor, config.latent_channels

    def encode(
        self, x: Float[Array, "*b h w 3"]
    ) -> tuple[Float[Array, "*b h2 w2 z"], Float[Array, "*b h2 w2 z"]]:
        """The latents, and the log-variance of what is certain, -infinity."""
        z = _as_latents(x.astype(jnp.float32), self.factor)
        return z, jnp.full_like(z, -jnp.inf)

    def decode(
        self, z: Float[Array, "*b h w z"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        """The inverse of `encode`. Errors: `UserError` where the number of latent channels is wrong."""
        del as_images
        if z.shape[-1] != self.channels:
            raise UserError(
                f"latents with {z.shape[-1]} channels: pixels in squares of {self.factor} need {self.channels}; "
                "decode with the VAE of these latents"
            )
        f = self.factor
        return rearrange(z, "... h w (m n c) -> ... (h m) (w n) c", m=f, n=f).astype(jnp.float32)

    def decode_next(
        self, z: Float[Array, "b t h w z"], cache: None
    ) -> tuple[Float[Array, "b t h2 w2 3"], None]:
        """Decode frames, which do not depend on those before (see `AutoencoderKL.decode_next`)."""
        del cache
        return self.decode(z), None


def _as_latents(x: Float[Array, "*b h w 3"], factor: int) -> Float[Array, "*b h2 w2 z"]:
    return rearrange(x, "... (h m) (w n) c -> ... h w (m n c)", m=factor, n=factor)
