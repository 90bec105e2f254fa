"""I3D (Carreira & Zisserman 1705.07750), Inception inflated over frames: the network of the Fréchet
video distance (Unterthiner et al. 1812.01717).

    unit(x) = ReLU(k * x + b)                  a convolution with its batch norm folded in (`weights/norm_folding.py`)
    mixed(x) = [b0(x), b1b(b1a(x)), b2b(b2a(x)), b3b(maxpool(x))]
    logits = mean_t W meanpool(x)              before the softmax; the distance compares these

A norm adds eps to its variance: 1e-3 in the published graph, 1e-5 in much PyTorch code that reads the same weights;
the logits of the two differ.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.clip_convolution import ClipConv, Size, max_pool

I3D_SIDE = 224
"""Height and width of the frames in pixels: the last pool takes their whole map."""
I3D_MIN_FRAMES = 9
"""Frames of the shortest clips: the last pool takes two of the steps, of which there is one for eight frames."""


@dataclass(frozen=True)
class I3DConfig:
    """Architecture of an I3D."""

    classes: int = 400
    """Number of logits: 400 for Kinetics-400, 600 for Kinetics-600."""

    def __post_init__(self) -> None:
        at_least(1, self, "classes")


# Channels of b0, b1a, b1b, b2a, b2b, b3b, in groups that begin with a max pool of a size and stride.
_GROUPS: tuple[tuple[Size, Size, dict[str, tuple[int, ...]]], ...] = (
    (
        (1, 3, 3),
        (1, 2, 2),
        {"Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64)},
    ),
    (
        (3, 3, 3),
        (2, 2, 2),
        {
            "Mixed_4b": (192, 96, 208, 16, 48, 64),
            "Mixed_4c": (160, 112, 224, 24, 64, 64),
            "Mixed_4d": (128, 128, 256, 24, 64, 64),
            "Mixed_4e": (112, 144, 288, 32, 64, 64),
            "Mixed_4f": (256, 160, 320, 32, 128, 128),
        },
    ),
    (
        (2, 2, 2),
        (2, 2, 2),
        {"Mixed_5b": (256, 160, 320, 32, 128, 128), "Mixed_5c": (384, 192, 384, 48, 128, 128)},
    ),
)


class I3D(nnx.Module):
    """Logits of clips with pixels in [-1, 1], of `I3D_MIN_FRAMES` frames or more, `I3D_SIDE` pixels
    high and wide."""

    def __init__(self, config: I3DConfig):
        self.Conv3d_1a_7x7 = ClipConv(3, 64, size=(7, 7, 7), stride=2)
        self.Conv3d_2b_1x1 = ClipConv(64, 64)
        self.Conv3d_2c_3x3 = ClipConv(64, 192, size=(3, 3, 3))
        channels = 192
        for _, _, group in _GROUPS:
            for name, widths in group.items():
                setattr(self, name, I3DMixed(channels, *widths))
                channels = sum(widths[place] for place in (0, 2, 4, 5))
        self.logits = ClipConv(channels, config.classes)

    def __call__(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
        if x.shape[1] < I3D_MIN_FRAMES or x.shape[2:4] != (I3D_SIDE, I3D_SIDE):
            raise ValueError(
                f"clips of {x.shape[1]} frames, {x.shape[2]} x {x.shape[3]}: I3D takes "
                f"{I3D_MIN_FRAMES} frames or more, {I3D_SIDE} x {I3D_SIDE}"
            )
        return self.any_size(x)

    def any_size(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
        """Logits of frames of any size, of which nothing is published; for tests."""
        x = max_pool(jax.nn.relu(self.Conv3d_1a_7x7(x)), (1, 3, 3), (1, 2, 2))
        x = jax.nn.relu(self.Conv3d_2c_3x3(jax.nn.relu(self.Conv3d_2b_1x1(x))))
        for size, stride, group in _GROUPS:
            x = max_pool(x, size, stride)
            for name in group:
                x = getattr(self, name)(x)
        steps = x.mean((2, 3))
        pairs = (steps[:, 1:] + steps[:, :-1]) / 2
        return self.logits(pairs[:, :, None, None])[:, :, 0, 0].mean(1)


class I3DMixed(nnx.Module):
    """Four branches side by side, concatenated along channels."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int):
        self.b0 = ClipConv(inputs, b0)
        self.b1a, self.b1b = ClipConv(inputs, b1a), ClipConv(b1a, b1b, size=(3, 3, 3))
        self.b2a, self.b2b = ClipConv(inputs, b2a), ClipConv(b2a, b2b, size=(3, 3, 3))
        self.b3b = ClipConv(inputs, b3b)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
        branches = (
            self.b0(x),
            self.b1b(jax.nn.relu(self.b1a(x))),
            self.b2b(jax.nn.relu(self.b2a(x))),
            self.b3b(max_pool(x, (3, 3, 3), (1, 1, 1))),
        )
        return jax.nn.relu(jnp.concatenate(branches, axis=-1))
