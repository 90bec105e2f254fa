"""Transformer layer that CLIP's text and vision encoders have in common."""

from enum import Enum
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import LayerNorm, Linear, gelu


class Activation(Enum):
    """Activation of the MLP: OpenAI's models use the sigmoid approximation of GELU, OpenCLIP's the
    exact one.
    """

    QUICK_GELU = "quick_gelu"
    GELU = "gelu"


@runtime_checkable
class TransformerSizes(Protocol):
    """What the layers of both encoders are made by."""

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def activation(self) -> Activation: ...


def clip_layers(sizes: TransformerSizes, *, is_causal: bool, keys: Keys) -> "list[CLIPLayer]":
    """All layers of an encoder."""
    return [CLIPLayer(sizes, is_causal=is_causal, keys=keys) for _ in range(sizes.layers)]


class CLIPLayer(nnx.Module):
    """Transformer layer: pre-norm self-attention, causal in a text encoder, and an MLP."""

    def __init__(self, sizes: TransformerSizes, *, is_causal: bool, keys: Keys):
        width, hidden = sizes.width, sizes.hidden
        self.layer_norm1 = LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Linear(width, width, keys=keys) for _ in range(4)
        )
        self.layer_norm2 = LayerNorm(width)
        self.fc1 = Linear(width, hidden, keys=keys)
        self.fc2 = Linear(hidden, width, keys=keys)
        self.heads, self.activation, self.is_causal = sizes.heads, sizes.activation, is_causal

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        y = self.layer_norm1(x)
        q, k, v = (
            rearrange(project(y), "b l (n d) -> b l n d", n=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), bool)) if self.is_causal else None
        x = x + self.out_proj(rearrange(attend(q, k, v, mask), "b l n d -> b l (n d)"))
        return x + self.fc2(_activate(self.fc1(self.layer_norm2(x)), self.activation))


def _activate(x: Float[Array, "*b d"], activation: Activation) -> Float[Array, "*b d"]:
    if activation is Activation.QUICK_GELU:
        return x * jax.nn.sigmoid(1.702 * x)
    return gelu(x)
