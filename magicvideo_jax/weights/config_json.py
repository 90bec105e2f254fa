"""config.json of the networks, as diffusers and transformers write it <-> our configurations.

Fields that a file leaves out take the default of the library's class. What this project's
networks cannot do is refused by name, never skipped.
"""

from collections.abc import Mapping
from typing import Any

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights.json_fields import Fields

Json = Mapping[str, Any]

DIFFUSERS_VERSION = "0.42.1"
"""Version of diffusers whose defaults these are, and that is named in what is written."""

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "num_class_embeds": None,
    "time_cond_proj_dim": None,
}
# Field: (default, values that the network here computes). The first value is also what we write.
_UNET_ONLY = {
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "dropout": (0.0,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "transformer_layers_per_block": (1,),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "projection_class_embeddings_input_dim": (None,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
}
# They change nothing here: attention always has float32 scores, any size is computed.
_UNET_FREE = ("sample_size", "upcast_attention", "addition_embed_type_num_heads")

_PLAIN_MIDDLE = "UNetMidBlock2DOfResnets"
"""Middle of two residual blocks without attention, which diffusers does not have and refuses."""

PIXEL_AUTOENCODER = "PixelAutoencoder"
"""Name that diffusers refuses as well: pixels in a VAE's place."""
_PIXELS = {"in_channels": 3, "latent_channels": 48, "scaling_factor": 1.0}

_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_VAE_ONLY = {
    "act_fn": ("silu", "swish"),
    "shift_factor": (None, 0.0),
    "latents_mean": (None,),
    "latents_std": (None,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
_VAE_FREE = ("sample_size", "force_upcast")

_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
_TEXT_ONLY = {"layer_norm_eps": (1e-5,)}


def unet_config(content: Json, *, where: str, temporal: TemporalConfig | None = None) -> UNetConfig:
    """UNet2DConditionModel. Its `attention_head_dim` is, despite its name, the number of heads."""
    fields = Fields(
        content, _UNET | {field: values[0] for field, values in _UNET_ONLY.items()}, where=where
    )
    fields.known(_UNET, _UNET_ONLY, _UNET_FREE)
    fields.only(_UNET_ONLY)
    widths = fields.integers("block_out_channels")
    heads = fields.integers("attention_head_dim", length=len(widths))
    kinds = fields.names("down_block_types", length=len(widths))
    attends = [kind == "CrossAttnDownBlock2D" for kind in kinds]
    if list(kinds) != _down_types(attends):
        raise fields.refused("down_block_types", "'CrossAttnDownBlock2D' or 'DownBlock2D'")
    if list(fields.names("up_block_types", length=len(widths))) != _up_types(attends):
        raise fields.refused(
            "up_block_types", f"the mirror of down_block_types, {_up_types(attends)}"
        )
    groups = fields.integer("norm_num_groups")
    for width, n in zip(widths, heads, strict=True):
        if width % n:
            raise fields.refused("attention_head_dim", f"numbers of heads that divide {width}")
        if width % groups:
            raise fields.refused("norm_num_groups", f"a number that divides {width}")
    middle = fields.get("mid_block_type")
    if middle not in (_UNET["mid_block_type"], _PLAIN_MIDDLE):
        raise fields.refused("mid_block_type", repr(_UNET["mid_block_type"]))
    text_only = fields.switches("only_cross_attention", length=len(widths))
    if fields.get("only_cross_attention") is True:  # diffusers' middle would follow one switch
        raise fields.refused("only_cross_attention", "a list, with a switch for each level")
    return UNetConfig(
        levels=tuple(
            UNetLevelConfig(w, n if a else 0, text_only=a and only)
            for w, n, a, only in zip(widths, heads, attends, text_only, strict=True)
        ),
        middle_heads=0 if middle == _PLAIN_MIDDLE else heads[-1],
        blocks=fields.integer("layers_per_block"),
        channels_in=fields.integer("in_channels"),
        channels_out=fields.integer("out_channels"),
        context=fields.integer("cross_attention_dim"),
        linear_projection=fields.switch("use_linear_projection"),
        groups=groups,
        noise_levels=fields.integer("num_class_embeds") if fields.get("num_class_embeds") else 0,
        guidance_channels=(
            fields.integer("time_cond_proj_dim") if fields.get("time_cond_proj_dim") else 0
        ),
        temporal=temporal,
    )


def unet_json(config: UNetConfig, *, sample_size: int = 64) -> dict[str, Any]:
    """The inverse of `unet_config`, without the temporal parts; `sample_size` is the side of a
    pipeline's latents."""
    last = config.levels[-1].heads
    if last not in (0, config.middle_heads):
        raise UserError(
            f"middle_heads={config.middle_heads}: diffusers' U-Net has the last level's number there"
        )
    heads = [level.heads or config.middle_heads or 1 for level in config.levels]
    attends = [level.heads > 0 for level in config.levels]
    text_only = [level.text_only for level in config.levels]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": sample_size,
        "in_channels": config.channels_in,
        "out_channels": config.channels_out,
        "down_block_types": _down_types(attends),
        "up_block_types": _up_types(attends),
        "block_out_channels": [level.width for level in config.levels],
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "cross_attention_dim": config.context,
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "use_linear_projection": config.linear_projection,
        "mid_block_type": _UNET["mid_block_type"] if config.middle_heads else _PLAIN_MIDDLE,
        "only_cross_attention": text_only if any(text_only) else False,
        "num_class_embeds": config.noise_levels or None,
        "time_cond_proj_dim": config.guidance_channels or None,
    } | {field: values[0] for field, values in _UNET_ONLY.items()}


def vae_config(
    content: Json, *, where: str, temporal: TemporalDecoderConfig | None = None
) -> VAEConfig:
    """AutoencoderKL, or pixels in its place."""
    if content.get("_class_name") == PIXEL_AUTOENCODER:
        return _pixels_config(Fields(content, _PIXELS, where=where))
    fields = Fields(
        content, _VAE | {field: values[0] for field, values in _VAE_ONLY.items()}, where=where
    )
    fields.known(_VAE, _VAE_ONLY, _VAE_FREE)
    widths = fields.integers("block_out_channels")
    channels = fields.integer("in_channels")
    fields.only(_VAE_ONLY | {"out_channels": (channels,)})
    for field, kind in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if set(fields.names(field, length=len(widths))) != {kind}:
            raise fields.refused(field, f"{len(widths)} times {kind!r}")
    groups = fields.integer("norm_num_groups")
    for width in widths:
        if width % groups:
            raise fields.refused("norm_num_groups", f"a number that divides {width}")
    return VAEConfig(
        widths=widths,
        blocks=fields.integer("layers_per_block"),
        channels=channels,
        latent_channels=fields.integer("latent_channels"),
        groups=groups,
        scaling=fields.number("scaling_factor"),
        temporal=temporal,
    )


def vae_json(config: VAEConfig, *, sample_size: int = 512) -> dict[str, Any]:
    """The inverse of `vae_config`, without the temporal parts; `sample_size` is the side of a
    pipeline's images."""
    if config.kind is VAEKind.PIXELS:
        return {
            "_class_name": PIXEL_AUTOENCODER,
            "in_channels": config.channels,
            "latent_channels": config.latent_channels,
            "sample_size": sample_size,
            "scaling_factor": config.scaling,
        }
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.widths),
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
        "sample_size": sample_size,
        "scaling_factor": config.scaling,
    }


def _pixels_config(fields: Fields) -> VAEConfig:
    fields.known(_PIXELS, _VAE_FREE)
    with named(f"{fields.where}: "):
        return VAEConfig(
            kind=VAEKind.PIXELS,
            channels=fields.integer("in_channels"),
            latent_channels=fields.integer("latent_channels"),
            scaling=fields.number("scaling_factor"),
        )


def is_whole_clip(content: Json) -> bool:
    """Whether a config.json is that of a whole CLIP, which has the text encoder's fields inside."""
    return isinstance(content.get("text_config"), Mapping) and "hidden_size" not in content


def text_config(content: Json, *, where: str) -> TextConfig:
    """CLIPTextModel. Its file also has fields of text generation and training, which say nothing
    here."""
    content = content["text_config"] if is_whole_clip(content) else content
    fields = Fields(
        content, _TEXT | {field: values[0] for field, values in _TEXT_ONLY.items()}, where=where
    )
    fields.only(_TEXT_ONLY)
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if width % heads:
        raise fields.refused("num_attention_heads", f"a number that divides {width}")
    return TextConfig(
        width=width,
        layers=fields.integer("num_hidden_layers"),
        heads=heads,
        hidden=fields.integer("intermediate_size"),
        vocabulary=fields.integer("vocab_size"),
        tokens=fields.integer("max_position_embeddings"),
        activation=fields.word("hidden_act", Activation),
    )


def text_json(config: TextConfig) -> dict[str, Any]:
    """The inverse of `text_config`. CLIP's vocabulary ends with the start and the end of a text."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.tokens,
        "hidden_act": config.activation.value,
        "layer_norm_eps": 1e-5,
        "projection_dim": config.width,
        "bos_token_id": config.vocabulary - 2,
        "eos_token_id": config.vocabulary - 1,
        "pad_token_id": 1,
        "dtype": "float32",
    }


def _down_types(attends: list[bool]) -> list[str]:
    return ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]


def _up_types(attends: list[bool]) -> list[str]:
    return ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
