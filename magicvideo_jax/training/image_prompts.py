"""Which training examples are conditioned on CLIP's embedding of a frame in place of a caption.

MagicVideo (2211.11018), section 3.4: pre-training on clips without captions, before captioned ones;
a model that has learned it also makes variations of pictures.
"""

from enum import Enum

import jax.numpy as jnp
from jaxtyping import Array, Bool


class ImagePrompts(Enum):
    """Examples that are conditioned on their middle frame."""

    NONE = "none"
    UNCAPTIONED = "uncaptioned"
    """Those without a caption; without image prompts they have the empty one."""
    ALL = "all"
    """All of them; captions are not read."""

    def chosen(self, is_captioned: Bool[Array, "b"]) -> Bool[Array, "b"]:
        """Whether each example is one of them."""
        captioned, uncaptioned = self is ImagePrompts.ALL, self is not ImagePrompts.NONE
        return jnp.where(is_captioned, captioned, uncaptioned)
