"""The U-Net of Video Diffusion Models (Ho et al. 2204.03458) as a traced program without weights, to count its work.

Every kernel is a constant made where it is used, so that `jax.make_jaxpr` sees the products and nothing is allocated.
What is not a product of matrices or a convolution (norms, activations, positions) is left out.

    block(x) = x' + conv(conv(x) + Dense(c))          convolutions of 1 x 3 x 3 over frames, after norms
    level    = (block, spatial attention, temporal attention) x blocks, resize
    network  = conv, levels down, block, attentions, block, levels up with one block more and skips, conv
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

CONDITION, CONDITION_LAYERS = 1024, 4
"""Width of the embedding of time and text, and its layers."""


@dataclass(frozen=True)
class VDMConfig:
    """Architecture, by the table of the paper's appendix."""

    width: int
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2
    """Residual blocks per level on the way down. The way up has one more."""
    attention_at: tuple[int, ...] = (8, 16, 32)
    """Heights of the levels that have attention. The middle has it too."""
    head: int = 64
    """Channels of an attention head."""


VDM_LARGE, VDM_SMALL = VDMConfig(width=256), VDMConfig(width=128)
"""Text to video of 16 x 64 x 64, and its smaller form."""


def vdm_unet(x: Float[Array, "t h w c"], config: VDMConfig) -> Float[Array, "t h w c"]:
    """One pass of the network for one clip."""
    condition = jnp.zeros((1, 1, 1, config.width))
    for _ in range(CONDITION_LAYERS):
        condition = _dense(condition, CONDITION)

    def step(x: Array, width: int, *, attends: bool) -> Array:
        x = _block(x, width, condition)
        return _attentions(x, config.head) if attends else x

    channels, widths = x.shape[-1], [config.width * m for m in config.multipliers]
    x = _conv(x, config.width)
    skips = [x]
    for i, width in enumerate(widths):
        for _ in range(config.blocks):
            x = step(x, width, attends=x.shape[1] in config.attention_at)
            skips.append(x)
        if i < len(widths) - 1:
            x = _conv(x, width, stride=2)
            skips.append(x)
    x = step(x, widths[-1], attends=True)
    x = step(x, widths[-1], attends=False)
    for i, width in reversed(list(enumerate(widths))):
        for _ in range(config.blocks + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = step(x, width, attends=x.shape[1] in config.attention_at)
        if i > 0:
            x = _conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), width)
    return _conv(x, channels)


def _block(x: Array, width: int, condition: Array) -> Array:
    y = _conv(x, width) + _dense(condition, width)
    y = _conv(y, width)
    return y + (x if x.shape[-1] == width else _dense(x, width))


def _attentions(x: Array, head: int) -> Array:
    """Attention over the pixels of each frame, then over the frames of each pixel."""
    _, h, w, _ = x.shape
    x = rearrange(x, "t h w c -> t (h w) c")
    x = rearrange(x + _attention(x, head), "t p c -> p t c")
    return rearrange(x + _attention(x, head), "(h w) t c -> t h w c", h=h, w=w)


def _attention(x: Float[Array, "b l c"], head: int) -> Float[Array, "b l c"]:
    width = x.shape[-1]
    q, k, v = (rearrange(_dense(x, width), "b l (n d) -> b n l d", d=head) for _ in range(3))
    weights = jax.nn.softmax(jnp.einsum("bnld,bnmd->bnlm", q, k))
    return _dense(
        rearrange(jnp.einsum("bnlm,bnmd->bnld", weights, v), "b n l d -> b l (n d)"), width
    )


def _conv(x: Float[Array, "t h w c"], width: int, *, stride: int = 1) -> Array:
    kernel = jnp.zeros((3, 3, x.shape[-1], width))
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _dense(x: Float[Array, "... c"], width: int) -> Array:
    return x @ jnp.zeros((x.shape[-1], width))
