"""LFDM's checkpoints: a dictionary with the state of the auto-encoder's three networks, or of the
diffusion. Sizes are deduced from shapes."""

from dataclasses import dataclass, field
from pathlib import Path

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.models.lfdm.flow_sampling import gaussian
from magicvideo_jax.models.lfdm.flow_unet import FLOW_CHANNELS, FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig
from magicvideo_jax.weights.components import ComponentWeights, Weights
from magicvideo_jax.weights.deduction import TensorShapes
from magicvideo_jax.weights.flow_components import FLOW_UNET, LATENT_FLOW
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.param_sources import TensorParams
from magicvideo_jax.weights.pickles import open_entries
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.lfdm_keys import (
    BLUR_KEYS,
    DIFFUSION_ENTRY,
    FLOW_ENTRIES,
    FLOW_UNET_EXTRAS,
    FLOW_UNET_TABLES,
    LATENT_FLOW_EXTRAS,
    LATENT_FLOW_TABLE,
    is_extra,
)
from magicvideo_jax.weights.tables.naming import Table
from magicvideo_jax.weights.tensor_files import FileKind, kind_of
from magicvideo_jax.weights.tensors import Tensors

_HEADS_KEY = "denoise_fn.time_rel_pos_bias.relative_attention_bias.weight"


@dataclass(frozen=True)
class LFDMParams(TensorParams):
    """Tensors of a checkpoint, and its buffers, which are written again as they were."""

    buffers: Tensors = field(default_factory=dict)


class LFDMFile:
    """A checkpoint of LFDM's auto-encoder, or MRAA's, or of LFDM's diffusion."""

    name = "a checkpoint of LFDM"

    def matches(self, path: Path) -> bool:
        """Whether a PyTorch file has entries that are LFDM's alone."""
        if not path.is_file() or kind_of(path) is not FileKind.PICKLE:
            return False
        return bool(open_entries(path, (FLOW_ENTRIES[0], DIFFUSION_ENTRY)))

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """The auto-encoder or the U-Net of a file. Errors: `UserError` that begins with the path."""
        options.refuse_all_but(path=path, why="a checkpoint of LFDM")
        tensors = open_entries(path, (DIFFUSION_ENTRY,))
        if tensors:
            tensors = {key.removeprefix(f"{DIFFUSION_ENTRY}."): x for key, x in tensors.items()}
            with named(f"{path}: "):
                config = _flow_unet_of(TensorShapes(tensors, where=str(path), what="LFDM"))
            source = _source(path, tensors, FLOW_UNET_TABLES[config.upsampling], FLOW_UNET_EXTRAS)
            part = ComponentWeights(FLOW_UNET, config, FLOW_UNET.write(config), source)
            return Weights({FLOW_UNET.folder: part}, noise=LFDM_NOISE)
        tensors = open_entries(path, FLOW_ENTRIES)
        with named(f"{path}: "):
            config = _latent_flow_of(TensorShapes(tensors, where=str(path), what="LFDM"))
        source = _source(path, tensors, LATENT_FLOW_TABLE, LATENT_FLOW_EXTRAS)
        part = ComponentWeights(LATENT_FLOW, config, LATENT_FLOW.write(config), source)
        note = (
            f"{path} does not say whether its regions were predicted with padding, as MUG's are: "
            "config.model.latent_flow.padded_regions does"
        )
        return Weights({LATENT_FLOW.folder: part}, notes=(note,))


def _source(
    path: Path, tensors: Tensors, table: Table, extras: tuple[KnownExtra, ...]
) -> LFDMParams:
    buffers = {key: x for key, x in tensors.items() if is_extra(key, extras)}
    kept = {key: x for key, x in tensors.items() if key not in buffers}
    return LFDMParams(table, kept, str(path), buffers=buffers)


def _latent_flow_of(shapes: TensorShapes) -> LatentFlowConfig:
    def hourglass(net: str) -> HourglassConfig:
        down = rf"{net}.encoder.down_blocks"
        blocks = shapes.count(rf"{net}\.encoder\.down_blocks\.(\d+)\.")
        first, deepest = (
            shapes.axis(f"{down}.{i}.conv.weight", 0) for i in (0, max(blocks - 1, 0))
        )
        up = f"{net}.decoder.up_blocks.{blocks - 1}.conv.weight"
        width = shapes.axis(up, 0) if up in shapes.tensors else first // 2
        is_capped = deepest < width * 2**blocks
        usual = HourglassConfig(width).max_width
        return HourglassConfig(width, deepest if is_capped else max(deepest, usual), blocks)

    downs = shapes.count(r"generator\.down_blocks\.(\d+)\.")
    width = shapes.axis("generator.first.conv.weight", 0)
    deepest = shapes.axis(f"generator.down_blocks.{max(downs - 1, 0)}.conv.weight", 0)
    is_capped = deepest < width * 2**downs
    blur = shapes.axis(BLUR_KEYS[0], 3) if BLUR_KEYS[0] in shapes.tensors else 1
    factors = {1: 1} | {len(gaussian(1 / factor)): factor for factor in (2, 4, 8)}
    if blur not in factors:
        raise UserError(f"{shapes.where}: {BLUR_KEYS[0]} has {blur} columns; not a whole LFDM")
    return LatentFlowConfig(
        regions=shapes.axis("region_predictor.regions.weight", 0),
        flow_factor=factors[blur],
        region_net=hourglass("region_predictor.predictor"),
        background_net=hourglass("bg_predictor"),
        flow_net=hourglass("generator.pixelwise_flow_predictor.hourglass"),
        width=width,
        max_width=deepest if is_capped else max(deepest, LatentFlowConfig().max_width),
        downs=downs,
        residuals=shapes.count(r"generator\.bottleneck\.r(\d+)\."),
    )


def _flow_unet_of(shapes: TensorShapes) -> FlowUNetConfig:
    stem = "denoise_fn.init_conv.weight"
    width, heads = shapes.axis(stem, 0), shapes.axis(_HEADS_KEY, 1)
    levels = shapes.count(r"denoise_fn\.downs\.(\d+)\.")
    widths = [shapes.axis(f"denoise_fn.downs.{i}.0.block1.proj.weight", 0) for i in range(levels)]
    if any(one % width for one in widths):
        raise UserError(
            f"{shapes.where}: levels of {widths} channels on {width}; not a U-Net of LFDM"
        )
    inside = shapes.axis("denoise_fn.init_temporal_attn.fn.fn.fn.to_qkv.weight", 0)
    is_nearest = "denoise_fn.ups.0.4.1.weight" in shapes.tensors
    return FlowUNetConfig(
        width=width,
        multipliers=tuple(one // width for one in widths),
        heads=heads,
        head_width=inside // 3 // heads,
        condition=shapes.axis("denoise_fn.downs.0.0.mlp.1.weight", 1) - 4 * width,
        feature=shapes.axis(stem, 1) - FLOW_CHANNELS,
        learned_null="denoise_fn.null_cond_emb" in shapes.tensors,
        upsampling=FlowUpsampling.NEAREST if is_nearest else FlowUpsampling.DECONVOLUTION,
    )
