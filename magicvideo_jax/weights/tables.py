"""Key tables: from a path in our parameters to the key of its weight in diffusers' (or TAESD's) files.

One direction is enough for both ways: the parameters of a network say what to look for when reading and what to
call it when writing. A row rewrites the path of a layer; the layer's own parameters follow `NamingStyle`.
"""

import re
from enum import Enum
from typing import NamedTuple

import numpy as np


class Layout(Enum):
    """Which of our axes stands where in a PyTorch weight (empty: all stay)."""

    SAME = ()
    LINEAR = (1, 0)
    """(in, out) -> (out, in)."""
    CONV = (3, 2, 0, 1)
    """h w in out -> out in h w."""

    def shape_of(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that one of our parameters has over there."""
        return tuple(ours[axis] for axis in self.value) or ours

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.transpose(self.value) if self.value else ours

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        return theirs.transpose(np.argsort(self.value)) if self.value else theirs


class NamingStyle(Enum):
    """How the parameters of a layer are called and laid out."""

    PYTORCH = "pytorch"
    """`weight` and `bias`; kernels are turned around."""
    OURS = "ours"
    """What PyTorch has no counterpart of keeps our names and layout."""


class TableRow(NamedTuple):
    """Layers whose path matches `ours` entirely are called `theirs`."""

    ours: str
    theirs: str
    leaves: NamingStyle = NamingStyle.PYTORCH


Table = tuple[TableRow, ...]

_STAGE = r"((?:down|up)_blocks\.\d+|mid_block)\.stages\.(\d+)"
_INSIDE = rf"{_STAGE}\.transformer\.(transformer_blocks\.\d+)"
_VAE_LEVEL = r"(encoder|decoder)\.((?:down|up)_blocks\.\d+)"
_VAE_MIDDLE = r"(encoder|decoder)\.mid_block"
_RESNET = r"(norm[12]|conv[12]|conv_shortcut|time_emb_proj)"

# What a `Temporal` or a `VideoDecoder` adds to an image network, by the words that stand in its paths (numbers at their
# end aside).
VIDEO_PARTS = ("adaptor", "temporal", "fps_embedding")

UNET: Table = (
    TableRow(rf"((?:.*\.)?(?:{'|'.join(VIDEO_PARTS)})\d*(?:\..*)?)", r"\1", NamingStyle.OURS),
    TableRow(r"(conv_in|conv_norm_out|conv_out|time_embedding\.linear_[12])", r"\1"),
    TableRow(rf"{_STAGE}\.resnet\.{_RESNET}", r"\1.resnets.\2.\3"),
    TableRow(rf"{_STAGE}\.transformer\.(norm|proj_in|proj_out)", r"\1.attentions.\2.\3"),
    TableRow(rf"{_INSIDE}\.(norm[123]|attn[12]\.to_[qkv])", r"\1.attentions.\2.\3.\4"),
    TableRow(rf"{_INSIDE}\.(attn[12]\.to_out)", r"\1.attentions.\2.\3.\4.0"),
    TableRow(rf"{_INSIDE}\.ff\.proj_in", r"\1.attentions.\2.\3.ff.net.0.proj"),
    TableRow(rf"{_INSIDE}\.ff\.proj_out", r"\1.attentions.\2.\3.ff.net.2"),
    TableRow(r"(down_blocks\.\d+)\.resample\.conv", r"\1.downsamplers.0.conv"),
    TableRow(r"(up_blocks\.\d+)\.resample\.conv", r"\1.upsamplers.0.conv"),
)

_VIDEO_DECODER = TableRow(r"(decoder\.temporal\..*)", r"\1", NamingStyle.OURS)

VAE: Table = (
    _VIDEO_DECODER,
    TableRow(
        r"(quant_conv|post_quant_conv|(?:encoder|decoder)\.(?:conv_in|conv_norm_out|conv_out))",
        r"\1",
    ),
    TableRow(rf"{_VAE_LEVEL}\.(resnets\.\d+)\.{_RESNET}", r"\1.\2.\3.\4"),
    TableRow(r"(encoder\.down_blocks\.\d+)\.resample\.conv", r"\1.downsamplers.0.conv"),
    TableRow(r"(decoder\.up_blocks\.\d+)\.resample\.conv", r"\1.upsamplers.0.conv"),
    TableRow(rf"{_VAE_MIDDLE}\.(resnets\.\d+)\.{_RESNET}", r"\1.mid_block.\2.\3"),
    TableRow(rf"{_VAE_MIDDLE}\.norm", r"\1.mid_block.attentions.0.group_norm"),
    TableRow(rf"{_VAE_MIDDLE}\.attention\.(to_[qkv])", r"\1.mid_block.attentions.0.\2"),
    TableRow(rf"{_VAE_MIDDLE}\.attention\.to_out", r"\1.mid_block.attentions.0.to_out.0"),
)

TEXT: Table = (
    TableRow(r"(token_embedding|position_embedding)", r"text_model.embeddings.\1"),
    TableRow(r"(layers\.\d+)\.([qkv]_proj|out_proj)", r"text_model.encoder.\1.self_attn.\2"),
    TableRow(r"(layers\.\d+)\.(layer_norm[12])", r"text_model.encoder.\1.\2"),
    TableRow(r"(layers\.\d+)\.(fc[12])", r"text_model.encoder.\1.mlp.\2"),
    TableRow(r"final_layer_norm", r"text_model.final_layer_norm"),
)

# A block's second and third convolution stand behind a ReLU, which takes a place in the published numbering.
TAESD: Table = (
    _VIDEO_DECODER,
    TableRow(r"(encoder|decoder)\.layers\.(\d+)", r"\1.\2"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.0", r"\1.\2.conv.0"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.1", r"\1.\2.conv.2"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.2", r"\1.\2.conv.4"),
)

# Keys of older files, and what they are called today (the first that matches entirely is applied).
VAE_ALIASES = (
    (r"(.*\.mid_block\.attentions\.0)\.query\.(.*)", r"\1.to_q.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.key\.(.*)", r"\1.to_k.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.value\.(.*)", r"\1.to_v.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.proj_attn\.(.*)", r"\1.to_out.0.\2"),
)
# transformers 5 writes the keys of a text model without the prefix that every published file has.
TEXT_ALIASES = ((r"((?:embeddings|encoder|final_layer_norm)\..*)", r"text_model.\1"),)

# Not weights: counters that older versions kept beside them.
TEXT_EXTRAS = (r"text_model\.embeddings\.position_ids",)

_LEAVES = {
    ("kernel", 4): ("weight", Layout.CONV),
    ("kernel", 2): ("weight", Layout.LINEAR),
    ("embedding", 2): ("weight", Layout.SAME),
    ("scale", 1): ("weight", Layout.SAME),
    ("bias", 1): ("bias", Layout.SAME),
}


class Name(NamedTuple):
    """What a parameter is called over there."""

    key: str
    layout: Layout
    leaves: NamingStyle


def name_of(table: Table, path: str, rank: int) -> Name:
    """Look a parameter up. A path that no row knows is a gap in the table, not the user's doing: `LookupError`."""
    layer, _, leaf = path.rpartition(".")
    for row in table:
        found = re.fullmatch(row.ours, layer)
        if found:
            key, layout = (
                (leaf, Layout.SAME) if row.leaves is NamingStyle.OURS else _LEAVES[leaf, rank]
            )
            return Name(f"{found.expand(row.theirs)}.{key}", layout, row.leaves)
    raise LookupError(f"no row of the key table names {path}")


def renamed(key: str, aliases: tuple[tuple[str, str], ...]) -> str:
    """A key of an older file by its name of today."""
    for pattern, today in aliases:
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(today)
    return key
