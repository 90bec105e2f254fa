"""VGG-19 (Simonyan & Zisserman 1409.1556) up to relu5_1, whose features frames are compared by.

Features are those after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of torchvision's network.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv

VGG19_LAYERS: dict[int, tuple[int, int]] = {
    0: (3, 64),
    2: (64, 64),
    5: (64, 128),
    7: (128, 128),
    10: (128, 256),
    **dict.fromkeys((12, 14, 16), (256, 256)),
    19: (256, 512),
    **dict.fromkeys((21, 23, 25, 28), (512, 512)),
}
"""Inputs and outputs of the convolutions, by their place in torchvision's list of layers."""
_SHOWN = (0, 5, 10, 19, 28)
_POOLED_BEFORE = (5, 10, 19, 28)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG19(nnx.Module):
    """Features of pictures in [0, 1], of sides of 16 or more."""

    def __init__(self, *, keys: Keys):
        self.features = nnx.Dict(
            {f"conv{place}": Conv(i, o, keys=keys) for place, (i, o) in VGG19_LAYERS.items()}
        )

    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        mean, std = (jnp.array(row, x.dtype)[None, None, None] for row in (_MEAN, _STD))
        y, shown = (x - mean) / std, []
        for place in VGG19_LAYERS:
            if place in _POOLED_BEFORE:
                b, h, w, c = y.shape
                y = y[:, : h // 2 * 2, : w // 2 * 2]
                y = y.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            y = jax.nn.relu(self.features[f"conv{place}"](y))
            if place in _SHOWN:
                shown.append(y)
        return shown
