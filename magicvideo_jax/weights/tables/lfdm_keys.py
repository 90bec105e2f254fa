"""Keys of LFDM's two checkpoints: the auto-encoder of latent flow, and the U-Net of its diffusion."""

import re
from collections.abc import Iterable

from magicvideo_jax.models.lfdm.flow_unet import FlowUpsampling
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import NamingStyle, Table, TableRow

FLOW_ENTRIES = ("region_predictor", "bg_predictor", "generator")
DIFFUSION_ENTRY = "diffusion"
"""Entries of the two checkpoints that hold weights."""

_LAYER = r"(conv|norm)"
_NET = r"(?:region_predictor\.predictor|generator\.pixelwise_flow_predictor\.hourglass)"

LATENT_FLOW_TABLE: Table = (
    TableRow(
        rf"((?:{_NET}|bg_predictor)\.encoder\.down_blocks\.\d+\.{_LAYER})",
        r"\1",
    ),
    TableRow(rf"({_NET})\.up_blocks\.(\d+)\.{_LAYER}", r"\1.decoder.up_blocks.\2.\3"),
    TableRow(r"(region_predictor\.regions|bg_predictor\.fc)", r"\1"),
    TableRow(
        rf"(generator\.(?:first|(?:down|up)_blocks\.\d+)\.{_LAYER})",
        r"\1",
    ),
    TableRow(r"generator\.bottleneck\.(\d+)\.(conv|norm)([12])", r"generator.bottleneck.r\1.\2\3"),
    TableRow(r"(generator\.(?:final|pixelwise_flow_predictor\.(?:mask|occlusion)))", r"\1"),
)
"""The entries `region_predictor`, `bg_predictor` and `generator` of a checkpoint, joined by dots."""

BLUR_KEYS = ("region_predictor.down.weight", "generator.pixelwise_flow_predictor.down.weight")
"""The kernels of fixed blurs, which checkpoints hold beside their weights."""
COUNTER = "num_batches_tracked"
"""The end of the key of a norm's counter of batches."""
LATENT_FLOW_EXTRAS = (
    KnownExtra(rf".*\.{COUNTER}"),
    KnownExtra("|".join(BLUR_KEYS).replace(".", r"\.")),
)

_ROOT = "denoise_fn"
_PLACES = (
    (r"(init_temporal_attn|mid_(?:spatial|temporal)_attn)", r"\1"),
    (r"(downs|ups)\.(\d+)\.frame_attn", r"\1.\2.3"),
)
"""Attentions that files wrap three times, and their places."""
_RESNETS = (
    (r"(downs|ups)\.(\d+)\.resnets\.([01])", r"\1.\2.\3"),
    (r"(mid_block[12])", r"\1"),
    (r"flow_head\.resnet", "final_conv.0"),
    (r"occlusion_head\.resnet", "occlusion_map.0"),
)
"""Residual blocks and their places."""

_PARTS = (
    TableRow("", _ROOT, NamingStyle.OURS),  # the vector of no class
    TableRow("init_conv", f"{_ROOT}.init_conv", NamingStyle.FRAMES),
    TableRow("time_rel_pos_bias", f"{_ROOT}.time_rel_pos_bias.relative_attention_bias"),
    TableRow("time_mlp1", f"{_ROOT}.time_mlp.1"),
    TableRow("time_mlp2", f"{_ROOT}.time_mlp.3"),
    *(TableRow(rf"{x}\.norm", f"{_ROOT}.{y}.fn.norm", NamingStyle.GAMMA) for x, y in _PLACES),
    *(
        TableRow(rf"{x}\.{layer}", f"{_ROOT}.{y}.fn.fn.fn.{layer}")
        for x, y in _PLACES
        for layer in ("to_qkv", "to_out")
    ),
    TableRow(
        r"(downs|ups)\.(\d+)\.pixel_attn\.norm", rf"{_ROOT}.\1.\2.2.fn.norm", NamingStyle.GAMMA
    ),
    TableRow(
        r"(downs|ups)\.(\d+)\.pixel_attn\.(to_qkv|to_out)",
        rf"{_ROOT}.\1.\2.2.fn.fn.\3",
        NamingStyle.POINTWISE,
    ),
    *(TableRow(rf"{x}\.mlp", f"{_ROOT}.{y}.mlp.1") for x, y in _RESNETS),
    *(
        TableRow(rf"{x}\.{ours}{i}", f"{_ROOT}.{y}.block{i}.{theirs}", NamingStyle.FRAMES)
        for x, y in _RESNETS
        for ours, theirs in (("conv", "proj"), ("norm", "norm"))
        for i in (1, 2)
    ),
    *(
        TableRow(rf"{x}\.res_conv", f"{_ROOT}.{y}.res_conv", NamingStyle.FRAMES)
        for x, y in _RESNETS
    ),
    TableRow(r"flow_head\.proj", f"{_ROOT}.final_conv.1", NamingStyle.FRAMES),
    TableRow(r"occlusion_head\.proj", f"{_ROOT}.occlusion_map.1", NamingStyle.FRAMES),
    TableRow(r"downsamples\.(\d+)", rf"{_ROOT}.downs.\1.4", NamingStyle.FRAMES),
)
FLOW_UNET_TABLES: dict[FlowUpsampling, Table] = {
    FlowUpsampling.DECONVOLUTION: (
        *_PARTS,
        TableRow(r"upsamples\.(\d+)", rf"{_ROOT}.ups.\1.4", NamingStyle.FRAMES_TRANSPOSED),
    ),
    FlowUpsampling.NEAREST: (
        *_PARTS,
        TableRow(r"upsamples\.(\d+)", rf"{_ROOT}.ups.\1.4.1", NamingStyle.FRAMES),
    ),
}
"""The entry `diffusion` of a checkpoint."""

FLOW_UNET_EXTRAS = (
    KnownExtra(r"denoise_fn\..*\.rotary_emb\.freqs"),
    KnownExtra(
        r"betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+|posterior_(variance|log_\w+|mean_coef[12])"
    ),
)
"""Constants of the rotary embedding, and the noise schedule."""


def is_extra(key: str, extras: tuple[KnownExtra, ...]) -> bool:
    """Whether a key is that of a buffer, which is no weight."""
    return any(re.fullmatch(extra.pattern, key) for extra in extras)


def frequency_keys_of_flow(theirs: Iterable[str]) -> list[str]:
    """Keys of the constants of the rotary embedding, one beside each attention over frames."""
    places = (
        r"(denoise_fn\.(?:\w+_temporal_attn|(?:downs|ups)\.\d+\.3)\.fn\.fn\.fn)\.to_qkv\.weight"
    )
    found = [match for key in theirs if (match := re.fullmatch(places, key))]
    return [f"{match[1]}.rotary_emb.freqs" for match in found]
