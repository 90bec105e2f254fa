"""CLIP text encoders: ViT-L/14's for Stable Diffusion 1.x, OpenCLIP ViT-H's for 2.x.

Stable Diffusion 2.x uses OpenCLIP's penultimate layer: `layers` is one less than in the released
encoder, and the final norm follows the last layer that is kept.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import at_least, divides
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.clip_layer import Activation, clip_layers
from magicvideo_jax.models.layers import Embedding, LayerNorm, Linear


@dataclass(frozen=True)
class TextConfig:
    """Architecture of a text encoder. The defaults are CLIP ViT-L/14's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 49_408
    tokens: int = 77
    activation: Activation = Activation.QUICK_GELU

    def __post_init__(self) -> None:
        at_least(1, self, "width", "layers", "hidden")
        at_least(2, self, "vocabulary", "tokens")  # the start and the end of a text
        divides(self.width, self, "heads", of="the width")


@dataclass(frozen=True)
class TextEmbedderConfig(TextConfig):
    """Architecture of a text encoder with its projection. The defaults are CLIP ViT-L/14's."""

    embedding: int = 768
    """Width of the embeddings of texts and images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "embedding")


VIT_L = TextConfig()
VIT_H_PENULTIMATE = TextConfig(
    width=1024, layers=23, heads=16, hidden=4096, activation=Activation.GELU
)


class CLIPTextEncoder(nnx.Module):
    """Text states of token ids, after the final norm, in float32."""

    def __init__(self, config: TextConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        # A larger std than CLIP's 0.02 keeps words distinct that no image distinguishes, such as
        # left and right.
        self.token_embedding = Embedding(config.vocabulary, config.width, keys=keys, std=0.5)
        self.position_embedding = Embedding(config.tokens, config.width, keys=keys, std=0.1)
        self.layers = nnx.List(clip_layers(config, is_causal=True, keys=keys))
        self.final_layer_norm = LayerNorm(config.width)
        self.dtype = dtype

    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        x = self.token_embedding(ids) + self.position_embedding(jnp.arange(ids.shape[-1]))[None]
        x = x.astype(self.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x).astype(jnp.float32)


class CLIPTextEmbedder(CLIPTextEncoder):
    """One embedding for each text: the projected state of its end, the largest token id.

    Its cosine with the embedding of an image by the encoder of the same CLIP says how well the two
    go together.
    """

    def __init__(self, config: TextEmbedderConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        super().__init__(config, keys=keys, dtype=dtype)
        self.projection = Linear(config.width, config.embedding, keys=keys, bias=False)

    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b e"]:
        states = super().__call__(ids)
        return self.projection(states[jnp.arange(len(ids)), ids.argmax(-1)])
