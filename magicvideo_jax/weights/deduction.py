"""Configurations deduced from the shapes of weights, for files that hold no configuration.

Head counts are not in shapes: 1.x has 8 heads everywhere, 2.x (linear projections) heads of 64
channels, and both text encoders heads of 64. Nor are group counts: 32.
"""

import math
import re

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import TextConfig, TextEmbedderConfig
from magicvideo_jax.models.clip_vision import VisionConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.tables.compvis_keys import UNetNumbering
from magicvideo_jax.weights.tensors import Tensors

_HEADS_1, _HEAD_WIDTH, _MOST_VISION_HEADS = 8, 64, 16
_ATTENTION = "transformer_blocks.0.attn2.to_k.weight"
_OPENCLIP_H = (1024, 24)
"""Width and blocks of the whole encoder of which Stable Diffusion 2.x reads all blocks but the
last."""


class TensorShapes:
    """Shapes of a file's tensors by key. Errors: `UserError` naming the file for a key that is
    missing."""

    def __init__(
        self, tensors: Tensors, *, where: str, what: str = "Stable Diffusion 1.x or 2.x checkpoint"
    ):
        self.tensors, self.where, self.what = tensors, where, what

    def rank(self, key: str) -> int:
        if key not in self.tensors:
            raise UserError(f"{self.where}: no {key}; not a whole {self.what}")
        return len(self.tensors[key].shape)

    def axis(self, key: str, axis: int) -> int:
        if self.rank(key) <= axis or not self.tensors[key].shape[axis]:
            shape = self.tensors[key].shape
            raise UserError(f"{self.where}: {key} has shape {shape}; not a {self.what}")
        return self.tensors[key].shape[axis]

    def count(self, pattern: str) -> int:
        """One more than the largest number in the keys that match `pattern`; 0 if none does."""
        found = (re.match(pattern, key) for key in self.tensors)
        count = max((int(match.group(1)) + 1 for match in found if match), default=0)
        if count > len(self.tensors):  # of which a network as large would be built
            raise UserError(
                f"{self.where}: a key has the number {count - 1}, but there are {len(self.tensors)} "
                f"tensors; not a whole {self.what}"
            )
        return count


def unet_of_shapes(unet: TensorShapes) -> tuple[UNetConfig, UNetNumbering]:
    """Deduce a U-Net from CompVis's keys."""
    inputs = unet.count(r"input_blocks\.(\d+)\.")
    halvings = sorted(
        int(found.group(1))
        for key in unet.tensors
        if (found := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key))
    )
    blocks = (halvings[0] if halvings else inputs) - 1
    if blocks < 1 or halvings != [(blocks + 1) * (i + 1) for i in range(len(halvings))]:
        raise UserError(
            f"{unet.where}: halvings at input_blocks {halvings}; not a Stable Diffusion U-Net"
        )
    widths, attends = [], []
    for level in range(len(halvings) + 1):
        last = (blocks + 1) * level + blocks
        widths.append(unet.axis(f"input_blocks.{last}.0.out_layers.3.weight", 0))
        attends.append(f"input_blocks.{last}.1.proj_in.weight" in unet.tensors)
    linear = unet.rank("middle_block.1.proj_in.weight") == 2
    heads = [width // _HEAD_WIDTH if linear else _HEADS_1 for width in widths]
    for width, n in zip(widths, heads, strict=True):
        if n < 1 or width % n or width % 32:
            raise UserError(f"{unet.where}: width {width}; not a Stable Diffusion 1.x or 2.x U-Net")
    config = UNetConfig(
        levels=tuple(
            UNetLevelConfig(w, n if a else 0)
            for w, n, a in zip(widths, heads, attends, strict=True)
        ),
        middle_heads=heads[-1],
        blocks=blocks,
        channels_in=unet.axis("input_blocks.0.0.weight", 1),
        channels_out=unet.axis("out.2.weight", 0),
        context=unet.axis(f"middle_block.1.{_ATTENTION}", 1),
        linear_projection=linear,
    )
    return config, UNetNumbering(blocks, tuple(attends))


def diffusers_unet_of_shapes(unet: TensorShapes, *, heads: int = _HEADS_1) -> UNetConfig:
    """Deduce a U-Net of `heads` heads everywhere from diffusers' keys.

    Attention to the text in place of self-attention shows in the width of its keys. Where the text
    is as wide as the level, self-attention is assumed.
    """
    blocks = unet.count(r"down_blocks\.0\.resnets\.(\d+)\.")
    context = unet.axis(f"mid_block.attentions.0.{_ATTENTION}", 1)
    levels = []
    for i in range(unet.count(r"down_blocks\.(\d+)\.")):
        width = unet.axis(f"down_blocks.{i}.resnets.0.conv1.weight", 0)
        if width % 32 or width % heads:
            raise UserError(f"{unet.where}: width {width}; not a Stable Diffusion U-Net")
        first = f"down_blocks.{i}.attentions.0.transformer_blocks.0.attn1.to_k.weight"
        attends = first in unet.tensors
        text_only = attends and unet.axis(first, 1) == context != width
        levels.append(UNetLevelConfig(width, heads if attends else 0, text_only=text_only))
    levels_of_noise = "class_embedding.weight"
    guidance = "time_embedding.cond_proj.weight"
    return UNetConfig(
        levels=tuple(levels),
        middle_heads=heads,
        blocks=blocks,
        channels_in=unet.axis("conv_in.weight", 1),
        channels_out=unet.axis("conv_out.weight", 0),
        context=context,
        linear_projection=unet.rank("mid_block.attentions.0.proj_in.weight") == 2,
        noise_levels=unet.axis(levels_of_noise, 0) if levels_of_noise in unet.tensors else 0,
        guidance_channels=unet.axis(guidance, 1) if guidance in unet.tensors else 0,
    )


def vae_of_shapes(vae: TensorShapes, *, down: str, block: str) -> VAEConfig:
    """Deduce a VAE; `down` and `block` are what the file calls the levels of the encoder and
    their blocks."""
    levels = vae.count(rf"encoder\.{down}\.(\d+)\.")
    widths = tuple(vae.axis(f"encoder.{down}.{i}.{block}.0.conv1.weight", 0) for i in range(levels))
    if not widths or any(width % 32 for width in widths):
        raise UserError(f"{vae.where}: widths {widths}; not Stable Diffusion's VAE")
    return VAEConfig(
        widths=widths,
        blocks=vae.count(rf"encoder\.{down}\.0\.{block}\.(\d+)\."),
        channels=vae.axis("encoder.conv_in.weight", 1),
        latent_channels=vae.axis("decoder.conv_in.weight", 1),
    )


def clip_of_shapes(text: TensorShapes) -> TextConfig:
    """Deduce a text encoder of 1.x from transformers' keys."""
    root = "text_model."
    config = TextConfig(
        width=text.axis(f"{root}embeddings.token_embedding.weight", 1),
        layers=text.count(r"text_model\.encoder\.layers\.(\d+)\."),
        heads=text.axis(f"{root}embeddings.token_embedding.weight", 1) // _HEAD_WIDTH,
        hidden=text.axis(f"{root}encoder.layers.0.mlp.fc1.weight", 0),
        vocabulary=text.axis(f"{root}embeddings.token_embedding.weight", 0),
        tokens=text.axis(f"{root}embeddings.position_embedding.weight", 0),
    )
    _check_heads(config, text.where)
    return config


def openclip_of_shapes(text: TensorShapes) -> TextConfig:
    """Deduce a text encoder of 2.x from OpenCLIP's keys.

    The original files hold OpenCLIP's whole encoder, whose last block Stable Diffusion 2.x does
    not read. Files that diffusers exported hold the blocks that are read and no more; they are
    known by the projection they lack.
    """
    blocks = text.count(r"transformer\.resblocks\.(\d+)\.")
    width = text.axis("token_embedding.weight", 1)
    is_whole = "text_projection" in text.tensors or (width, blocks) == _OPENCLIP_H
    config = TextConfig(
        width=width,
        layers=blocks - is_whole,
        heads=width // _HEAD_WIDTH,
        hidden=text.axis("transformer.resblocks.0.mlp.c_fc.weight", 0),
        vocabulary=text.axis("token_embedding.weight", 0),
        tokens=text.axis("positional_embedding", 0),
        activation=Activation.GELU,
    )
    _check_heads(config, text.where)
    return config


def text_embedder_of_shapes(text: TensorShapes, activation: Activation) -> TextEmbedderConfig:
    """Deduce CLIP's whole text encoder from OpenCLIP's keys."""
    width = text.axis("token_embedding.weight", 1)
    return TextEmbedderConfig(
        width=width,
        layers=text.count(r"transformer\.resblocks\.(\d+)\."),
        heads=width // _HEAD_WIDTH,
        hidden=text.axis("transformer.resblocks.0.mlp.c_fc.weight", 0),
        vocabulary=text.axis("token_embedding.weight", 0),
        tokens=text.axis("positional_embedding", 0),
        activation=activation,
        embedding=text.axis("text_projection", 0),
    )


def vision_of_shapes(vision: TensorShapes, activation: Activation) -> VisionConfig:
    """Deduce CLIP's image encoder from OpenCLIP's keys. Wide ones have 16 heads, narrower ones
    heads of 64 channels."""
    width, patch = (vision.axis("visual.conv1.weight", axis) for axis in (0, 2))
    side = math.isqrt(max(vision.axis("visual.positional_embedding", 0) - 1, 0))
    return VisionConfig(
        size=patch * side,
        patch=patch,
        width=width,
        layers=vision.count(r"visual\.transformer\.resblocks\.(\d+)\."),
        heads=min(width // _HEAD_WIDTH, _MOST_VISION_HEADS),
        hidden=vision.axis("visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
        embedding=vision.axis("visual.proj", 0),
        activation=activation,
    )


def _check_heads(config: TextConfig, where: str) -> None:
    if config.heads < 1 or config.width % _HEAD_WIDTH or config.layers < 1:
        raise UserError(
            f"{where}: width {config.width}, {config.layers} layers; not Stable Diffusion's text encoder"
        )
