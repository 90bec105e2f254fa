"""Keys of diffusers' AutoencoderKL, today's and older ones."""

from magicvideo_jax.weights.tables.naming import Aliases, NamingStyle, Table, TableRow

_LEVEL = r"(encoder|decoder)\.((?:down|up)_blocks\.\d+)"
_MIDDLE = r"(encoder|decoder)\.mid_block"
_RESNET = r"(norm[12]|conv[12]|conv_shortcut)"

VIDEO_DECODER = TableRow(r"(decoder\.temporal\..*)", r"\1", NamingStyle.OURS)
"""Temporal layers of a VideoVAE's decoder."""

VAE_TABLE: Table = (
    VIDEO_DECODER,
    TableRow(
        r"(quant_conv|post_quant_conv|(?:encoder|decoder)\.(?:conv_in|conv_norm_out|conv_out))",
        r"\1",
    ),
    TableRow(rf"{_LEVEL}\.(resnets\.\d+)\.{_RESNET}", r"\1.\2.\3.\4"),
    TableRow(r"(encoder\.down_blocks\.\d+)\.resample\.conv", r"\1.downsamplers.0.conv"),
    TableRow(r"(decoder\.up_blocks\.\d+)\.resample\.conv", r"\1.upsamplers.0.conv"),
    TableRow(rf"{_MIDDLE}\.(resnets\.\d+)\.{_RESNET}", r"\1.mid_block.\2.\3"),
    TableRow(rf"{_MIDDLE}\.norm", r"\1.mid_block.attentions.0.group_norm"),
    TableRow(rf"{_MIDDLE}\.attention\.(to_[qkv])", r"\1.mid_block.attentions.0.\2"),
    TableRow(rf"{_MIDDLE}\.attention\.to_out", r"\1.mid_block.attentions.0.to_out.0"),
)

VAE_ALIASES: Aliases = (
    (r"(.*\.mid_block\.attentions\.0)\.query\.(.*)", r"\1.to_q.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.key\.(.*)", r"\1.to_k.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.value\.(.*)", r"\1.to_v.\2"),
    (r"(.*\.mid_block\.attentions\.0)\.proj_attn\.(.*)", r"\1.to_out.0.\2"),
)

COMPVIS_VAE_ALIASES: Aliases = (
    (r"(.*\.mid\.attn_1)\.to_([qkv])\.(.*)", r"\1.\2.\3"),
    (r"(.*\.mid\.attn_1)\.to_out\.0\.(.*)", r"\1.proj_out.\2"),
)
"""CompVis files whose attention was renamed as in diffusers."""

ATTENTION_WEIGHT = (
    r".*\.(mid\.attn_1\.(q|k|v|proj_out)|mid_block\.attentions\.0\.(to_[qkv]|to_out\.0))\.weight"
)
"""Weights of the VAE's attention, which some files keep as 1x1 convolutions (c, c, 1, 1)."""
