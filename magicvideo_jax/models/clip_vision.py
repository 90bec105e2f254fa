"""CLIP's vision encoder (Radford et al. 2103.00020), a vision transformer, and what it is shown.

    x_0 = [c, W_p patch_1, W_p patch_2, ..] + positions                       (1)  c: class token
    e = W norm(transformer(norm(x_0))_0)                                      (2)  state of the class token, projected

The embedding e lies in the space of `CLIPTextEmbedder`'s.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least, divides
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.clip_layer import Activation, clip_layers
from magicvideo_jax.models.layers import Conv, Embedding, LayerNorm, Linear, Padding

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels of CLIP's training images, in [0, 1]."""


@dataclass(frozen=True)
class VisionConfig:
    """Architecture of a vision encoder. The defaults are CLIP ViT-L/14's."""

    size: int = 224
    """Side of an image in pixels."""
    patch: int = 14
    """Side of a patch in pixels."""
    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    embedding: int = 768
    """Width of the embeddings of images and texts."""
    activation: Activation = Activation.QUICK_GELU

    def __post_init__(self) -> None:
        at_least(1, self, "size", "width", "layers", "hidden", "embedding")
        divides(self.size, self, "patch", of="the size")
        divides(self.width, self, "heads", of="the width")

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.size // self.patch) ** 2


VISION_L_14 = VisionConfig()
VISION_B_32 = VisionConfig(patch=32, width=768, layers=12, heads=12, hidden=3072, embedding=512)


class CLIPVisionEncoder(nnx.Module):
    """Embeddings of images as `clip_images` makes them, in float32."""

    def __init__(self, config: VisionConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        width = config.width
        self.patch_embedding = Conv(
            3,
            width,
            size=config.patch,
            stride=config.patch,
            padding=Padding.NONE,
            bias=False,
            keys=keys,
        )
        self.class_embedding = nnx.Param(width**-0.5 * jax.random.normal(keys(), (width,)))
        self.position_embedding = Embedding(1 + config.patches, width, keys=keys, std=width**-0.5)
        self.pre_layer_norm = LayerNorm(width)
        self.layers = nnx.List(clip_layers(config, is_causal=False, keys=keys))
        self.post_layer_norm = LayerNorm(width)
        self.projection = Linear(width, config.embedding, keys=keys, bias=False)
        self.dtype = dtype

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        x = rearrange(self.patch_embedding(images.astype(self.dtype)), "b h w d -> b (h w) d")
        token = jnp.broadcast_to(
            self.class_embedding[...][None, None], (len(images), 1, x.shape[-1])
        )
        x = jnp.concatenate([token.astype(self.dtype), x], axis=1)
        positions = self.position_embedding(jnp.arange(x.shape[1]))[None]
        x = self.pre_layer_norm(x + positions.astype(self.dtype))
        for layer in self.layers:
            x = layer(x)
        return self.projection(self.post_layer_norm(x[:, 0]).astype(jnp.float32))


def clip_images(x: Float[Array, "b h w 3"], size: int) -> Float[Array, "b size size 3"]:
    """Images in [-1, 1] as CLIP's encoder is shown them: the shorter side is resized to `size`
    pixels, bicubic with antialiasing, the centre is cropped, and channels are normalised.

    Levels are rounded after the resize of each axis, as in Pillow's 8-bit pictures, which CLIP was
    trained on.
    """
    *_, height, width, _ = x.shape
    shorter = min(height, width)
    tall, wide = size * height // shorter, size * width // shorter
    levels = (x.astype(jnp.float32) + 1) * 127.5
    for shape in ((len(x), height, wide, 3), (len(x), tall, wide, 3)):
        resized = jax.image.resize(levels, shape, "cubic", antialias=True)
        levels = jnp.round(jnp.clip(resized, 0, 255))
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    cropped = levels[:, top : top + size, left : left + size]
    return (cropped / 255 - jnp.array(MEAN, ndmin=4)) / jnp.array(DEVIATION, ndmin=4)
