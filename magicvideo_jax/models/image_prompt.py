"""A picture in place of a text: CLIP's image embedding as a text state.

    s = W e sqrt(d) / |e|,   e = CLIP(x), with d numbers                      (1)

W begins at zero and is all that trains; only the direction of an embedding has a meaning in CLIP.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.clip_vision import CLIPVisionEncoder, VisionConfig, clip_images
from magicvideo_jax.models.layers import Linear

TO_TEXT = "to_text"
"""Parameter W of eq. 1, which CLIP's own weights lack."""


@dataclass(frozen=True)
class ImagePromptConfig(VisionConfig):
    """Architecture of CLIP's image encoder with the map to text states."""

    text_width: int = 768
    """Width of the text states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "text_width")


class ImagePrompt(CLIPVisionEncoder):
    """A text state for each image in [-1, 1] of any size (eq. 1), in float32."""

    def __init__(self, config: ImagePromptConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        super().__init__(config, keys=keys, dtype=dtype)
        self.to_text = Linear(config.embedding, config.text_width, keys=keys, bias=False, zero=True)
        self.size = config.size

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        e = super().__call__(clip_images(images, self.size))
        mean_square = jnp.mean(jnp.square(e), axis=-1, keepdims=True)
        return self.to_text(e / jnp.sqrt(mean_square + 1e-12))
