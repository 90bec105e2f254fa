"""Inception V3 (Szegedy et al. 1512.00567) as TensorFlow's graph of 2015-12-05 has it: the network of
the Fréchet inception distance (Heusel et al. 1706.08500).

Two of its pools differ from the network that is usually trained: means leave padding out of the count, and the last
block pools by maximum. The distance compares the mean over pixels of what the last block gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.rows import add_bias

INCEPTION_SIDE = 299
"""Height and width of the images in pixels."""


@dataclass(frozen=True)
class InceptionConfig:
    """Architecture of an Inception V3."""

    classes: int = 1008
    """Number of logits."""

    def __post_init__(self) -> None:
        at_least(1, self, "classes")


class _Unit(NamedTuple):
    """A convolution with its batch norm folded in, and ReLU. A padded one keeps h and w."""

    name: str
    channels: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    is_padded: bool = True


_Pool = Callable[[Array], Array]
_Branch = tuple[_Unit | _Pool | tuple[_Unit, ...], ...]
"""Steps one after the other; units in a tuple stand side by side."""


def _max_pool(x: Array) -> Array:
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -math.inf, jax.lax.max, window, strides, "VALID")


def _max_around(x: Array) -> Array:
    return jax.lax.reduce_window(x, -math.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def _mean_around(x: Array) -> Array:
    def total(x: Array) -> Array:
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


def _mixed_5(pool: int) -> tuple[_Branch, ...]:
    return (
        (_Unit("branch1x1", 64),),
        (_Unit("branch5x5_1", 48), _Unit("branch5x5_2", 64, (5, 5))),
        (
            _Unit("branch3x3dbl_1", 64),
            _Unit("branch3x3dbl_2", 96, (3, 3)),
            _Unit("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_mean_around, _Unit("branch_pool", pool)),
    )


def _mixed_6(width: int) -> tuple[_Branch, ...]:
    return (
        (_Unit("branch1x1", 192),),
        (
            _Unit("branch7x7_1", width),
            _Unit("branch7x7_2", width, (1, 7)),
            _Unit("branch7x7_3", 192, (7, 1)),
        ),
        (
            _Unit("branch7x7dbl_1", width),
            _Unit("branch7x7dbl_2", width, (7, 1)),
            _Unit("branch7x7dbl_3", width, (1, 7)),
            _Unit("branch7x7dbl_4", width, (7, 1)),
            _Unit("branch7x7dbl_5", 192, (1, 7)),
        ),
        (_mean_around, _Unit("branch_pool", 192)),
    )


def _mixed_7(pool: _Pool) -> tuple[_Branch, ...]:
    return (
        (_Unit("branch1x1", 320),),
        (
            _Unit("branch3x3_1", 384),
            (_Unit("branch3x3_2a", 384, (1, 3)), _Unit("branch3x3_2b", 384, (3, 1))),
        ),
        (
            _Unit("branch3x3dbl_1", 448),
            _Unit("branch3x3dbl_2", 384, (3, 3)),
            (_Unit("branch3x3dbl_3a", 384, (1, 3)), _Unit("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, _Unit("branch_pool", 192)),
    )


_STEM: _Branch = (
    _Unit("Conv2d_1a_3x3", 32, (3, 3), 2, False),
    _Unit("Conv2d_2a_3x3", 32, (3, 3), 1, False),
    _Unit("Conv2d_2b_3x3", 64, (3, 3)),
    _max_pool,
    _Unit("Conv2d_3b_1x1", 80),
    _Unit("Conv2d_4a_3x3", 192, (3, 3), 1, False),
    _max_pool,
)
_BLOCKS: dict[str, tuple[_Branch, ...]] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": (
        (_Unit("branch3x3", 384, (3, 3), 2, False),),
        (
            _Unit("branch3x3dbl_1", 64),
            _Unit("branch3x3dbl_2", 96, (3, 3)),
            _Unit("branch3x3dbl_3", 96, (3, 3), 2, False),
        ),
        (_max_pool,),
    ),
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": (
        (_Unit("branch3x3_1", 192), _Unit("branch3x3_2", 320, (3, 3), 2, False)),
        (
            _Unit("branch7x7x3_1", 192),
            _Unit("branch7x7x3_2", 192, (1, 7)),
            _Unit("branch7x7x3_3", 192, (7, 1)),
            _Unit("branch7x7x3_4", 192, (3, 3), 2, False),
        ),
        (_max_pool,),
    ),
    "Mixed_7b": _mixed_7(_mean_around),
    "Mixed_7c": _mixed_7(_max_around),
}
"""Branches of each block, whose outputs are concatenated along channels in this order."""


class InceptionBlock(nnx.Module):
    """Units by the names of some branches, and the branches side by side."""

    def __init__(self, inputs: int, branches: tuple[_Branch, ...]):
        self.channels = sum(self._add_units(inputs, branch) for branch in branches)

    def _add_units(self, channels: int, branch: _Branch) -> int:
        for step in branch:
            if isinstance(step, _Unit):
                setattr(self, step.name, InceptionUnit(channels, step))
                channels = step.channels
            elif isinstance(step, tuple):
                channels = sum(self._add_units(channels, (unit,)) for unit in step)
        return channels

    def run(
        self, branches: tuple[_Branch, ...], x: Float[Array, "n h w c"]
    ) -> Float[Array, "n h2 w2 d"]:
        """Apply the branches and concatenate what they give along channels."""
        return jnp.concatenate([self._run_branch(branch, x) for branch in branches], axis=-1)

    def _run_branch(self, branch: _Branch, x: Array) -> Array:
        for step in branch:
            if isinstance(step, _Unit):
                x = getattr(self, step.name)(x)
            elif isinstance(step, tuple):
                x = self.run(tuple((unit,) for unit in step), x)
            else:
                x = step(x)
        return x


class InceptionUnit(nnx.Module):
    """Convolution with its batch norm folded in, and ReLU; zeros until weights are loaded."""

    def __init__(self, inputs: int, unit: _Unit):
        self.kernel = nnx.Param(jnp.zeros((*unit.size, inputs, unit.channels)))
        self.bias = nnx.Param(jnp.zeros(unit.channels))
        self.stride, self.padding = unit.stride, "SAME" if unit.is_padded else "VALID"

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            window_strides=(self.stride, self.stride),
            padding=self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return jax.nn.relu(add_bias(y, self.bias[...]))


class InceptionV3(InceptionBlock):
    """Features of images with pixels in [-1, 1], `INCEPTION_SIDE` high and wide: 2048 of each."""

    def __init__(self, config: InceptionConfig):
        super().__init__(3, (_STEM,))
        channels = self.channels
        for name, branches in _BLOCKS.items():
            block = InceptionBlock(channels, branches)
            setattr(self, name, block)
            channels = block.channels
        self.fc = Classifier(channels, config.classes)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        if x.shape[1:3] != (INCEPTION_SIDE, INCEPTION_SIDE):
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]}: Inception V3 takes {INCEPTION_SIDE} x "
                f"{INCEPTION_SIDE}"
            )
        return self.any_size(x)

    def any_size(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Features of images of 75 x 75 or more, of which nothing is published; for tests."""
        x = self.run((_STEM,), x)
        for name, branches in _BLOCKS.items():
            x = getattr(self, name).run(branches, x)
        return x.mean((1, 2))

    def logits(self, features: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Logits of classes by the features, before the softmax."""
        return self.fc(features)


class Classifier(nnx.Module):
    """Linear layer, in float32 and not in an accelerator's faster passes."""

    def __init__(self, inputs: int, outputs: int):
        self.kernel, self.bias = (
            nnx.Param(jnp.zeros((inputs, outputs))),
            nnx.Param(jnp.zeros(outputs)),
        )

    def __call__(self, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
        y = jnp.matmul(x, self.kernel[...], precision=jax.lax.Precision.HIGHEST)
        return y + self.bias[...][None]
