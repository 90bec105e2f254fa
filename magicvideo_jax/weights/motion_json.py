"""config.json of diffusers' MotionAdapter and UNetMotionModel <-> our configurations.

Both compute in diffusers' norm convention; the folder of temporal layers beside a U-Net (its own
`TemporalConfig`) says where another one is meant.
"""

from dataclasses import replace
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.lone_motion import MotionConfig
from magicvideo_jax.models.temporal import MotionModuleConfig, TemporalConfig, animatediff
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.weights.config_json import DIFFUSERS_VERSION, Json, unet_config, unet_json
from magicvideo_jax.weights.json_fields import Fields

MOTION_ADAPTER, MOTION_UNET = "MotionAdapter", "UNetMotionModel"
"""Classes of diffusers, as `_class_name` has them."""

SDXL_WIDTHS = (320, 640, 1280)
"""Channels at the resolutions of Stable Diffusion XL."""
_MOST_FRAMES = 1024

_ADAPTER = {
    "block_out_channels": (320, 640, 1280, 1280),
    "motion_layers_per_block": 2,
    "motion_num_attention_heads": 8,
    "motion_norm_num_groups": 32,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
    "conv_in_channels": None,
}
# Field: (default, values that the network here computes), as in `config_json.py`.
_ADAPTER_ONLY = {
    "motion_transformer_layers_per_block": (1,),
    "motion_mid_block_layers_per_block": (1,),
    "motion_transformer_layers_per_mid_block": (1,),
}

_MOTION_UNET = {
    "num_attention_heads": 8,
    "motion_num_attention_heads": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
}
_MOTION_UNET_ONLY = {
    "temporal_transformer_layers_per_block": (1,),
    "reverse_temporal_transformer_layers_per_block": (None,),
    "temporal_transformer_layers_per_mid_block": (1,),
    "transformer_layers_per_mid_block": (None, 1),
    "reverse_motion_num_attention_heads": (None,),
    "mid_block_layers": (1,),
}
# Fields of UNet2DConditionModel that UNetMotionModel also has, under the same names.
_SHARED = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "use_linear_projection",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "time_cond_proj_dim",
)
_BLOCK_TYPES = ("down_block_types", "up_block_types")


def adapter_config(content: Json, *, where: str) -> MotionConfig:
    """Read the config.json of a MotionAdapter. Errors: `UserError` naming the field."""
    only = {field: values[0] for field, values in _ADAPTER_ONLY.items()}
    fields = Fields(content, _ADAPTER | only, where=where)
    if fields.get("conv_in_channels") is not None:
        raise UserError(f"{where}: field 'conv_in_channels' is set: {refused_pia()}")
    fields.known(_ADAPTER, _ADAPTER_ONLY)
    fields.only(_ADAPTER_ONLY)
    widths = fields.integers("block_out_channels")
    refuse_sdxl(widths, where=where)
    return MotionConfig(
        widths=widths,
        blocks=_same(fields, "motion_layers_per_block", length=len(widths)),
        groups=fields.integer("motion_norm_num_groups"),
        temporal=_temporal(fields, widths),
    )


def adapter_json(config: MotionConfig) -> dict[str, Any]:
    """The inverse of `adapter_config`, but for the norm convention, which is diffusers'."""
    motion = config.temporal.motion or MotionModuleConfig()
    return {
        "_class_name": MOTION_ADAPTER,
        "_diffusers_version": DIFFUSERS_VERSION,
        "block_out_channels": list(config.widths),
        "motion_layers_per_block": config.blocks,
        "motion_num_attention_heads": motion.heads,
        "motion_norm_num_groups": config.groups,
        "motion_max_seq_length": config.temporal.frames,
        "use_motion_mid_block": motion.in_middle,
        "conv_in_channels": None,
    } | {field: values[0] for field, values in _ADAPTER_ONLY.items()}


def video_unet_config(
    content: Json, *, where: str, temporal: TemporalConfig | None = None
) -> UNetConfig:
    """Read the config.json of a U-Net of either class; `temporal` is what another file says of
    its temporal layers, and goes first."""
    if content.get("_class_name") != MOTION_UNET:
        return unet_config(content, where=where, temporal=temporal)
    only = {field: values[0] for field, values in _MOTION_UNET_ONLY.items()}
    fields = Fields(content, _MOTION_UNET | only, where=where)
    fields.only(_MOTION_UNET_ONLY)
    heads = fields.get("num_attention_heads")
    image = {
        **{field: value for field, value in content.items() if field not in fields.defaults},
        "attention_head_dim": heads,  # UNet2DConditionModel's name for it
        **{
            field: [str(name).replace("BlockMotion", "Block2D") for name in content[field]]
            for field in _BLOCK_TYPES
            if isinstance(content.get(field), list)
        },
    }
    config = unet_config(image, where=where)
    widths = tuple(level.width for level in config.levels)
    return replace(config, temporal=temporal or _temporal(fields, widths))


def motion_unet_json(config: UNetConfig, *, sample_size: int = 64) -> dict[str, Any]:
    """The config.json of a U-Net with motion modules as diffusers' UNetMotionModel."""
    motion = config.temporal and config.temporal.motion
    if config.temporal is None or motion is None:
        raise ValueError("a U-Net without motion modules")
    image = unet_json(config, sample_size=sample_size)
    return {
        "_class_name": MOTION_UNET,
        "_diffusers_version": DIFFUSERS_VERSION,
        **{field: image[field] for field in _SHARED},
        **{
            field: [n.replace("Block2D", "BlockMotion") for n in image[field]]
            for field in _BLOCK_TYPES
        },
        "num_attention_heads": image["attention_head_dim"],
        "motion_num_attention_heads": motion.heads,
        "motion_max_seq_length": config.temporal.frames,
        "use_motion_mid_block": motion.in_middle,
    } | {field: values[0] for field, values in _MOTION_UNET_ONLY.items()}


def refuse_sdxl(widths: tuple[int, ...], *, where: str) -> None:
    """Errors: `UserError` for the sizes of Stable Diffusion XL."""
    if widths == SDXL_WIDTHS:
        raise UserError(
            f"{where}: motion modules for Stable Diffusion XL (three levels); supported: those for "
            "Stable Diffusion 1.x, four levels of 320, 640, 1280 and 1280 channels"
        )


def refused_pia() -> str:
    """Words for weights of PIA, whose U-Net takes an image beside the latents."""
    return (
        "PIA, whose U-Net takes 9 channels, which is not supported: give motion modules of "
        "AnimateDiff v1, v2 or v3"
    )


def _temporal(fields: Fields, widths: tuple[int, ...]) -> TemporalConfig:
    """Motion modules in diffusers' norm convention."""
    heads = _same(fields, "motion_num_attention_heads", length=len(widths))
    if any(width % heads for width in widths):
        raise fields.refused("motion_num_attention_heads", f"a number that divides {widths}")
    frames = fields.integer("motion_max_seq_length")
    if frames > _MOST_FRAMES:
        raise fields.refused("motion_max_seq_length", f"at most {_MOST_FRAMES}")
    middle = fields.switch("use_motion_mid_block")
    motion = MotionModuleConfig(heads=heads, in_middle=middle, norm_over_frames=True)
    return animatediff(frames=frames, motion=motion)


def _same(fields: Fields, field: str, *, length: int) -> int:
    """A number, or a list of so many equal ones."""
    numbers = set(fields.integers(field, length=length))
    if len(numbers) > 1:
        raise fields.refused(field, "one number for all levels")
    return numbers.pop()
