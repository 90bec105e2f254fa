"""C3D (Tran et al. 1412.0767) as fine-tuned on UCF-101: the network of the inception score of videos
(Saito & Saito, TGANv2, 1811.09245).

Eight convolutions of 3 x 3 x 3 with ReLU, five max pools that round sizes up, and three linear layers.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.clip_convolution import ClipConv, max_pool
from magicvideo_jax.models.inception import Classifier

C3D_FRAMES, C3D_SIDE = 16, 112
"""Frames of a clip, and their height and width in pixels."""

# Channels of the convolutions before each pool, in widths of the first.
_GROUPS = (
    {"conv1a": 1},
    {"conv2a": 2},
    {"conv3a": 4, "conv3b": 4},
    {"conv4a": 8, "conv4b": 8},
    {"conv5a": 8, "conv5b": 8},
)


@dataclass(frozen=True)
class C3DConfig:
    """Architecture of a C3D."""

    classes: int = 101
    """Number of logits: 101 for UCF-101."""
    width: int = 64
    """Channels of the first convolution."""
    hidden: int = 4096
    """Width of the hidden linear layers."""

    def __post_init__(self) -> None:
        at_least(1, self, "classes", "width", "hidden")


class C3D(nnx.Module):
    """Logits of clips of `C3D_FRAMES` frames, `C3D_SIDE` high and wide, as `c3d_frames` prepares them."""

    def __init__(self, config: C3DConfig):
        channels = 3
        for group in _GROUPS:
            for name, factor in group.items():
                inputs, channels = channels, factor * config.width
                setattr(self, name, ClipConv(inputs, channels, size=(3, 3, 3)))
        map_side = -(-C3D_SIDE // 2 ** len(_GROUPS))
        self.fc6 = Classifier(channels * map_side**2, config.hidden)
        self.fc7 = Classifier(config.hidden, config.hidden)
        self.fc8 = Classifier(config.hidden, config.classes)

    def __call__(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b k"]:
        if x.shape[1:4] != (C3D_FRAMES, C3D_SIDE, C3D_SIDE):
            raise ValueError(
                f"clips of {x.shape[1]} frames, {x.shape[2]} x {x.shape[3]}: C3D takes "
                f"{C3D_FRAMES} frames, {C3D_SIDE} x {C3D_SIDE}"
            )
        for place, group in enumerate(_GROUPS):
            for name in group:
                x = jax.nn.relu(getattr(self, name)(x))
            size = (2 if place else 1, 2, 2)
            x = max_pool(x, size, size)
        # The linear layers count channels first, then frames and pixels.
        x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
        return self.fc8(jax.nn.relu(self.fc7(jax.nn.relu(self.fc6(x)))))
