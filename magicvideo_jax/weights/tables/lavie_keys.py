"""Keys of LaVie's three U-Nets: diffusers' for the image network, and LaVie's for what it adds."""

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from magicvideo_jax.weights.tables.naming import Table, TableRow
from magicvideo_jax.weights.tables.unet_keys import INSIDE_TRANSFORMER, STAGE, UNET_TABLE

_LEVEL = r"(down|up)_blocks\.(\d+)\.temporal_block"
_MIDDLE = r"mid_block\.temporal_block"
_RESNET = r"(norm[12]|conv[12]|time_emb_proj)"


def _attention_rows(attention: str, norm: str) -> Table:
    """Temporal attention, whose names differ between LaVie's networks."""
    ours, theirs = rf"{INSIDE_TRANSFORMER}\.temporal", r"\1.attentions.\2.\3"
    bias = "time_rel_pos_bias.relative_attention_bias"
    return (
        TableRow(rf"{ours}\.norm", rf"{theirs}.{norm}"),
        TableRow(rf"{ours}\.(to_[qkv])", rf"{theirs}.{attention}.\4"),
        TableRow(rf"{ours}\.to_out", rf"{theirs}.{attention}.to_out.0"),
        TableRow(rf"{ours}\.relative_bias", rf"{theirs}.{attention}.{bias}"),
    )


def _pair_rows(ours: str, theirs: str, layer: str) -> Table:
    """The residual blocks after a level; `layer` is the group that names a layer in them."""
    return (
        TableRow(rf"{ours}\.over_frames\.{_RESNET}", rf"{theirs}.resblocks_3d_t.{layer}"),
        TableRow(rf"{ours}\.within_frames\.{_RESNET}", rf"{theirs}.resblocks_3d_s.{layer}"),
        TableRow(rf"{ours}\.shift_conv", rf"{theirs}.shift_conv"),
    )


LAVIE_TABLE: Table = (*_attention_rows("attn_temp", "norm_temp"), *UNET_TABLE)
"""Keys of `lavie_base.pt` and `lavie_interpolation.pt`."""

LAVIE_VSR_TABLE: Table = (
    *_attention_rows("attn_temporal", "norm_temporal"),
    TableRow(
        rf"{STAGE}\.transformer\.temporal_resnet\.{_RESNET}",
        r"\1.attentions.\2.resblock_temporal.\3",
    ),
    *_pair_rows(_LEVEL, r"\1_temporal_blocks.\2", r"\3"),
    *_pair_rows(_MIDDLE, "mid_temporal_block", r"\1"),
    *UNET_TABLE,
)
"""Keys of `lavie_vsr.pt`."""

FREQUENCIES = r"(.*\.)?(rotary_emb|temporal_rotary_emb)\.freqs"
"""Keys of the constants of the rotary embedding, which checkpoints hold beside their weights."""


def rotary_frequencies() -> Float32[np.ndarray, "16"]:
    """The constants themselves, 10000^(-m / 16), with the bits of PyTorch's float32."""
    return np.float32(1) / (10_000.0 ** (np.arange(16) / 16)).astype(np.float32)


def frequency_keys(theirs: Iterable[str]) -> list[str]:
    """Keys of the constants that belong to a checkpoint with these keys of weights."""
    bias = r"(.*)\.time_rel_pos_bias\.relative_attention_bias\.weight"
    found = [match for key in theirs if (match := re.fullmatch(bias, key))]
    top = ["temporal_rotary_emb.freqs"] if any("attn_temporal" in m[1] for m in found) else []
    return top + [f"{match[1]}.rotary_emb.freqs" for match in found]
