"""Patch discriminator for clips (Isola et al. 1611.07004).

Each frame and its difference to the previous one form an image of six channels, so that the
network sees motion without convolutions over time.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least, divides
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, GroupNorm

_SLOPE = 0.2


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of a discriminator. Each layer halves h and w and doubles the channels."""

    width: int = 64
    """Channels of the first layer."""
    layers: int = 3
    groups: int = 8
    """Groups of the group norms, which all layers except the first have."""

    def __post_init__(self) -> None:
        at_least(1, self, "layers", "width")
        divides(self.width, self, "groups", of="the width")


class Discriminator(nnx.Module):
    """Scores of every patch of every frame except the first, for clips in [-1, 1].

    Positive means real.
    """

    def __init__(self, config: DiscriminatorConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        widths = [config.width * 2**i for i in range(config.layers)]
        inputs = [6, *widths[:-1]]
        self.convs = nnx.List(
            [Conv(i, o, stride=2, keys=keys) for i, o in zip(inputs, widths, strict=True)]
        )
        self.norms = nnx.List(
            [GroupNorm(width, groups=config.groups, eps=1e-5) for width in widths[1:]]
        )
        self.conv_out = Conv(widths[-1], 1, keys=keys)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2"]:
        h = jnp.concatenate([x[:, 1:], x[:, 1:] - x[:, :-1]], axis=-1).astype(self.dtype)
        h = jax.nn.leaky_relu(self.convs[0](h), _SLOPE)
        for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
            h = jax.nn.leaky_relu(norm(conv(h)), _SLOPE)
        return self.conv_out(h)[..., 0].astype(jnp.float32)
