"""CLIP text encoders: ViT-L/14's for Stable Diffusion 1.x, OpenCLIP ViT-H's for 2.x.

Stable Diffusion 2.x uses OpenCLIP's penultimate layer: `layers` is one less than in the released
encoder, and the final norm follows the last layer that is kept.
"""

from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import at_least, divides
from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Embedding, LayerNorm, Linear, gelu


class Activation(Enum):
    """Activation of the MLP: OpenAI's models use the sigmoid approximation of GELU, OpenCLIP's the
    exact one.
    """

    QUICK_GELU = "quick_gelu"
    GELU = "gelu"


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
        self.layers = nnx.List([CLIPLayer(config, keys=keys) for _ in range(config.layers)])
        self.final_layer_norm = LayerNorm(config.width)
        self.dtype = dtype

    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        x = self.token_embedding(ids) + self.position_embedding(jnp.arange(ids.shape[-1]))[None]
        x = x.astype(self.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x).astype(jnp.float32)


class CLIPLayer(nnx.Module):
    """Transformer layer: pre-norm causal self-attention and an MLP."""

    def __init__(self, config: TextConfig, *, keys: Keys):
        width = config.width
        self.layer_norm1 = LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Linear(width, width, keys=keys) for _ in range(4)
        )
        self.layer_norm2 = LayerNorm(width)
        self.fc1 = Linear(width, config.hidden, keys=keys)
        self.fc2 = Linear(config.hidden, width, keys=keys)
        self.heads, self.activation = config.heads, config.activation

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        y = self.layer_norm1(x)
        q, k, v = (
            rearrange(project(y), "b l (n d) -> b l n d", n=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        causal = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), bool))
        x = x + self.out_proj(rearrange(attend(q, k, v, causal), "b l n d -> b l (n d)"))
        return x + self.fc2(_activate(self.fc1(self.layer_norm2(x)), self.activation))


def _activate(x: Float[Array, "*b d"], activation: Activation) -> Float[Array, "*b d"]:
    if activation is Activation.QUICK_GELU:
        return x * jax.nn.sigmoid(1.702 * x)
    return gelu(x)
