"""Keys of diffusers' UNet2DConditionModel, and what video networks add to them."""

from magicvideo_jax.models.temporal import VIDEO_PARTS
from magicvideo_jax.weights.tables.naming import NamingStyle, Table, TableRow

STAGE = r"((?:down|up)_blocks\.\d+|mid_block)\.stages\.(\d+)"
"""A residual block and its transformer, as a pattern of two groups."""
INSIDE_TRANSFORMER = rf"{STAGE}\.transformer\.(transformer_blocks\.\d+)"
"""The same, and a block of the transformer as a third group."""
_RESNET = r"(norm[12]|conv[12]|conv_shortcut|time_emb_proj)"

_MOTION = rf"{STAGE}\.motion_module"
_MOTION_INSIDE = rf"{_MOTION}\.(transformer_blocks\.\d+)"

UNET_TABLE: Table = (
    # AnimateDiff's motion modules, in the keys of diffusers' UNetMotionModel and MotionAdapter.
    TableRow(rf"{_MOTION}\.(norm|proj_in|proj_out)", r"\1.motion_modules.\2.\3"),
    TableRow(rf"{_MOTION_INSIDE}\.(norm[123]|attn[12]\.to_[qkv])", r"\1.motion_modules.\2.\3.\4"),
    TableRow(rf"{_MOTION_INSIDE}\.(attn[12]\.to_out)", r"\1.motion_modules.\2.\3.\4.0"),
    TableRow(rf"{_MOTION_INSIDE}\.ff\.proj_in", r"\1.motion_modules.\2.\3.ff.net.0.proj"),
    TableRow(rf"{_MOTION_INSIDE}\.ff\.proj_out", r"\1.motion_modules.\2.\3.ff.net.2"),
    TableRow(rf"((?:.*\.)?(?:{'|'.join(VIDEO_PARTS)})\d*(?:\..*)?)", r"\1", NamingStyle.OURS),
    TableRow(
        r"(conv_in|conv_norm_out|conv_out|time_embedding\.(?:linear_[12]|cond_proj)|class_embedding)",
        r"\1",
    ),
    TableRow(rf"{STAGE}\.resnet\.{_RESNET}", r"\1.resnets.\2.\3"),
    TableRow(rf"{STAGE}\.transformer\.(norm|proj_in|proj_out)", r"\1.attentions.\2.\3"),
    TableRow(rf"{INSIDE_TRANSFORMER}\.(norm[123]|attn[12]\.to_[qkv])", r"\1.attentions.\2.\3.\4"),
    TableRow(rf"{INSIDE_TRANSFORMER}\.(attn[12]\.to_out)", r"\1.attentions.\2.\3.\4.0"),
    TableRow(rf"{INSIDE_TRANSFORMER}\.ff\.proj_in", r"\1.attentions.\2.\3.ff.net.0.proj"),
    TableRow(rf"{INSIDE_TRANSFORMER}\.ff\.proj_out", r"\1.attentions.\2.\3.ff.net.2"),
    TableRow(r"(down_blocks\.\d+)\.resample\.conv", r"\1.downsamplers.0.conv"),
    TableRow(r"(up_blocks\.\d+)\.resample\.conv", r"\1.upsamplers.0.conv"),
)
