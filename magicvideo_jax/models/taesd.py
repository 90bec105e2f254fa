"""TAESD: the tiny auto-encoder of Stable Diffusion's latents (github.com/madebyollin/taesd), for previews.

Pixels in [0, 1]; latents already multiplied by the VAE's scaling. Layers sit at their place in the published
sequential models, whose weight files name them by that place (`3.conv.0.weight`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, upsample

_WIDTH, _LATENT = 64, 4


class TAESD(nnx.Module):
    """Both halves; each is also of use alone."""

    def __init__(self, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        self.encoder, self.decoder = TAESDEncoder(keys=keys), TAESDDecoder(keys=keys)
        self.dtype = dtype

    def encode(self, x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h2 w2 4"]:
        return self.encoder(x.astype(self.dtype)).astype(jnp.float32)

    def decode(self, z: Float[Array, "*b h w 4"]) -> Float[Array, "*b h2 w2 3"]:
        return self.decoder(z.astype(self.dtype)).astype(jnp.float32)

    def __call__(self, x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
        """Reconstruction."""
        return self.decode(self.encode(x))


class TAESDBlock(nnx.Module):
    """relu(conv relu conv relu conv x + x)."""

    def __init__(self, *, keys: Keys):
        self.conv = nnx.List([Conv(_WIDTH, _WIDTH, keys=keys) for _ in range(3)])

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        first, second, third = self.conv
        return jax.nn.relu(third(jax.nn.relu(second(jax.nn.relu(first(x))))) + x)


class Clamp(nnx.Module):
    """3 tanh(z / 3): keeps wild latents within what the decoder knows."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        return 3 * jnp.tanh(z / 3)


class ReLU(nnx.Module):
    """A layer of its own here, as it takes a place in the decoder's numbering."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        return jax.nn.relu(z)


class Double(nnx.Module):
    """Nearest-neighbour upsampling; a place in the decoder's numbering."""

    def __call__(self, z: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
        return upsample(z)


class TAESDEncoder(nnx.Module):
    """A stem and three halvings."""

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
    """A stem and three doublings."""

    def __init__(self, *, keys: Keys):
        layers: list[nnx.Module] = [Clamp(), Conv(_LATENT, _WIDTH, keys=keys), ReLU()]
        for _ in range(3):
            layers += [TAESDBlock(keys=keys) for _ in range(3)]
            layers += [Double(), Conv(_WIDTH, _WIDTH, bias=False, keys=keys)]
        self.layers = nnx.List([*layers, TAESDBlock(keys=keys), Conv(_WIDTH, 3, keys=keys)])

    def __call__(self, z: Float[Array, "*b h w 4"]) -> Float[Array, "*b h2 w2 3"]:
        for layer in self.layers:
            z = layer(z)
        return z
