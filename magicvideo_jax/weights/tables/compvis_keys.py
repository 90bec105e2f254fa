"""Keys of single-file checkpoints of Stable Diffusion 1.x and 2.x: those of CompVis's original
code.

Each function turns a key of diffusers into the one of such a file. CompVis numbers the blocks of
the U-Net in one row (`input_blocks.0` is `conv_in`, then for every level its residual blocks and
its halving), counts the decoder's levels from the finest, writes the VAE's attention as 1x1
convolutions, and 2.x has OpenCLIP's text encoder, in which query, key and value are one matrix.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from magicvideo_jax.weights.tensors import Tensors

UNET_PREFIX, VAE_PREFIX, TEXT_1_PREFIX, TEXT_2_PREFIX, EMA_PREFIX = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "model_ema.",
)

_UNET_ROWS = (
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"conv_in", "input_blocks.0.0"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
)
_RESNET_ROWS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {
    "resnets.0": "middle_block.0",
    "attentions.0": "middle_block.1",
    "resnets.1": "middle_block.2",
}
_VAE_ROWS = (
    (r"(.*)\.downsamplers\.0\.conv", r"\1.downsample.conv"),
    (r"(.*)\.upsamplers\.0\.conv", r"\1.upsample.conv"),
    (r"(.*)\.mid_block\.attentions\.0\.group_norm", r"\1.mid.attn_1.norm"),
    (r"(.*)\.mid_block\.attentions\.0\.to_out\.0", r"\1.mid.attn_1.proj_out"),
    (r"(.*)\.mid_block\.attentions\.0\.to_([qkv])", r"\1.mid.attn_1.\2"),
    (r"(.*)\.mid_block\.resnets\.0\.(.*)", r"\1.mid.block_1.\2"),
    (r"(.*)\.mid_block\.resnets\.1\.(.*)", r"\1.mid.block_2.\2"),
    (r"(.*)\.conv_norm_out", r"\1.norm_out"),
)


@dataclass(frozen=True)
class UNetNumbering:
    """Structure of a U-Net that the numbers in its keys depend on."""

    blocks: int
    attends: tuple[bool, ...]
    """Whether each level has attention, finest level first."""


def unet_key(key: str, numbering: UNetNumbering) -> str:
    """Turn diffusers' key of a U-Net's weight into CompVis's, without the prefix."""
    layer, _, leaf = key.rpartition(".")
    for pattern, theirs in _UNET_ROWS:
        if re.fullmatch(pattern, layer):
            return f"{theirs}.{leaf}"
    place, i, kind, j, rest = re.fullmatch(
        r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)",
        key,
    ).groups()  # pyright: ignore[reportOptionalMemberAccess]  (tables.py writes no other keys)
    if kind == "resnets":
        inner, _, leaf = rest.rpartition(".")
        rest = f"{_RESNET_ROWS[inner]}.{leaf}"
    if place == "mid":
        return f"{_MIDDLE[f'{kind}.{j}']}.{rest}"
    level, step = int(i), int(j)
    stages = numbering.blocks + 1
    if place == "down":
        if kind == "downsamplers":
            return f"input_blocks.{stages * (level + 1)}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + stages * level + step}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        # It stands behind the attention of the level's last block, if there is one.
        behind = 2 if numbering.attends[len(numbering.attends) - 1 - level] else 1
        return f"output_blocks.{stages * (level + 1) - 1}.{behind}.{rest}"
    return f"output_blocks.{stages * level + step}.{int(kind == 'attentions')}.{rest}"


def vae_key(key: str, levels: int) -> str:
    """Turn diffusers' key of a VAE's weight into CompVis's, without the prefix."""

    def level(found: re.Match[str]) -> str:
        way, number = found.groups()
        return f"{way}.{number if way == 'down' else levels - 1 - int(number)}"

    layer, _, leaf = key.rpartition(".")
    for pattern, theirs in _VAE_ROWS:
        layer = re.sub(rf"^{pattern}$", theirs, layer)
    layer = re.sub(r"(down|up)_blocks\.(\d+)", level, layer)
    return (
        f"{layer.replace('.resnets.', '.block.').replace('conv_shortcut', 'nin_shortcut')}.{leaf}"
    )


def ema_key(key: str) -> str:
    """Key of the averaged twin of `model.diffusion_model.*`: its name without dots."""
    return f"{EMA_PREFIX}{key.removeprefix('model.').replace('.', '')}"


def component_tensors(tensors: Tensors, prefix: str) -> Tensors:
    """Tensors of one network, without its prefix."""
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def is_single_file(keys: Iterable[str]) -> bool:
    """Whether keys are those of a CompVis checkpoint with its U-Net."""
    return any(key.startswith(UNET_PREFIX) for key in keys)
