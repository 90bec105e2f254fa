"""Blocks of LFDM's auto-encoder: convolutions with batch norms, and hourglasses of them.

An hourglass (Newell et al. 1603.06937) halves its input n times and doubles it as often; each
doubling is followed by the map of that size from the way down.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, Padding, upsample
from magicvideo_jax.models.lfdm.batch_norm import BatchNorm


@dataclass(frozen=True)
class HourglassConfig:
    """Size of an hourglass. Each of its `blocks` doubles the channels up to `max_width`."""

    width: int
    max_width: int = 1024
    blocks: int = 5

    def __post_init__(self) -> None:
        at_least(1, self, "width", "max_width", "blocks")

    def width_at(self, level: int) -> int:
        """Channels after so many halvings."""
        return min(self.max_width, self.width * 2**level)

    def outputs(self, inputs: int) -> int:
        """Channels of the hourglass's result, which ends with its input."""
        return self.width_at(0) + inputs


class NormedConv(nnx.Module):
    """Convolution, batch norm, ReLU; it keeps h and w."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        keys: Keys,
        size: int = 3,
        padding: Padding = Padding.EVEN,
    ):
        self.conv = Conv(inputs, outputs, size=size, padding=padding, keys=keys)
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        return jax.nn.relu(self.norm(self.conv(x)))


class HalvingBlock(NormedConv):
    """A `NormedConv`, then the mean of each 2 x 2 pixels."""

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        y = super().__call__(x)
        b, h, w, c = y.shape
        y = y[:, : h // 2 * 2, : w // 2 * 2]
        return y.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class DoublingBlock(NormedConv):
    """Nearest-neighbour upsampling by 2, then a `NormedConv`."""

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return super().__call__(upsample(x))


class PreNormResidual(nnx.Module):
    """Residual block whose norms stand before its convolutions."""

    def __init__(self, channels: int, *, keys: Keys):
        self.conv1, self.conv2 = (Conv(channels, channels, keys=keys) for _ in range(2))
        self.norm1, self.norm2 = BatchNorm(channels), BatchNorm(channels)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = self.conv1(jax.nn.relu(self.norm1(x)))
        return x + self.conv2(jax.nn.relu(self.norm2(y)))


class HourglassEncoder(nnx.Module):
    """The way down: maps of all sizes, the input first."""

    def __init__(self, config: HourglassConfig, inputs: int, *, keys: Keys):
        widths = [inputs, *(config.width_at(i + 1) for i in range(config.blocks))]
        self.down_blocks = nnx.List([HalvingBlock(i, o, keys=keys) for i, o in pairwise(widths)])

    def __call__(self, x: Float[Array, "b h w c"]) -> list[Float[Array, "b _h _w _c"]]:
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps


class Hourglass(nnx.Module):
    """The way down and up again, with `config.outputs(inputs)` channels at the input's size."""

    def __init__(self, config: HourglassConfig, inputs: int, *, keys: Keys):
        self.encoder = HourglassEncoder(config, inputs, keys=keys)
        levels = range(config.blocks)[::-1]
        self.up_blocks = nnx.List(
            [
                DoublingBlock(
                    config.width_at(i + 1) * (1 if i == levels[0] else 2),
                    config.width_at(i),
                    keys=keys,
                )
                for i in levels
            ]
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        *skips, y = self.encoder(x)
        for block, skip in zip(self.up_blocks, skips[::-1], strict=True):
            y = jnp.concatenate([block(y), skip], axis=-1)
        return y
