"""LaVie's checkpoints (2309.15103): `lavie_base.pt`, `lavie_interpolation.pt` and `lavie_vsr.pt`, or the
same dictionaries as safetensors.

Each holds one U-Net and no configuration. The keys tell which, the shapes of its weights its sizes,
and the schedule is that of the published code (`known_schedules.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion import known_schedules
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models import temporal
from magicvideo_jax.weights.components import UNET, ComponentWeights, Weights
from magicvideo_jax.weights.config_json import unet_json
from magicvideo_jax.weights.deduction import TensorShapes, diffusers_unet_of_shapes
from magicvideo_jax.weights.folders import assumed_noise
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.param_sources import TensorParams
from magicvideo_jax.weights.tables.lavie_keys import (
    FREQUENCIES,
    LAVIE_TABLE,
    LAVIE_VSR_TABLE,
    rotary_frequencies,
)
from magicvideo_jax.weights.tables.naming import Table
from magicvideo_jax.weights.tensor_files import has_tensors, open_tensors
from magicvideo_jax.weights.tensors import Tensors

_PREFIX = "module."
_ATTENTION = r".*\.transformer_blocks\.0\.attn_temp(oral)?\.to_q\.weight"
_BIAS = r".*\.time_rel_pos_bias\.relative_attention_bias\.weight"


class LaVieKind(NamedTuple):
    """One of LaVie's three networks."""

    name: str
    temporal: temporal.TemporalConfig
    table: Table
    noise: NoiseScheduleConfig
    given: int
    """Channels that it takes beside the latents."""


BASE = LaVieKind("base", temporal.LAVIE, LAVIE_TABLE, known_schedules.LAVIE_NOISE, 0)
INTERPOLATION = LaVieKind(
    "interpolation",
    temporal.LAVIE_INTERPOLATION,
    LAVIE_TABLE,
    known_schedules.LAVIE_INTERPOLATION_NOISE,
    4,
)
VSR = LaVieKind(
    "super-resolution", temporal.LAVIE_VSR, LAVIE_VSR_TABLE, known_schedules.LAVIE_VSR_NOISE, 3
)
LAVIE_KINDS = (BASE, INTERPOLATION, VSR)


class LaVieFile:
    """A U-Net of LaVie, told apart by its keys."""

    name = "a file of LaVie (base, interpolation or super-resolution)"

    def matches(self, path: Path) -> bool:
        """Whether there is LaVie's attention over frames."""
        return has_tensors(path) and any(
            re.fullmatch(_ATTENTION, key) for key in open_tensors(path)
        )

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the U-Net, with the schedule that belongs to it."""
        options.refuse_all_but(path=path, why="a U-Net of LaVie")
        where = str(path)
        tensors = {key.removeprefix(_PREFIX): x for key, x in open_tensors(path).items()}
        kept = {key: x for key, x in tensors.items() if not re.fullmatch(FREQUENCIES, key)}
        _check_frequencies(tensors.keys() - kept.keys(), tensors, where)
        kind = _kind_of(kept)
        biases = [x for key, x in kept.items() if re.fullmatch(_BIAS, key)]
        heads = {"heads": biases[0].shape[-1]} if biases else {}
        config = diffusers_unet_of_shapes(TensorShapes(kept, where=where), **heads)
        if config.channels_in != config.channels_out + kind.given:
            raise UserError(
                f"{where}: conv_in.weight takes {config.channels_in} channels; LaVie's {kind.name} "
                f"network takes {config.channels_out + kind.given}"
            )
        config = replace(config, temporal=kind.temporal)
        source = TensorParams(kind.table, kept, where)
        part = ComponentWeights(UNET, config, unet_json(config), source)
        return Weights({UNET.folder: part}, **assumed_noise(kind.noise))


def lavie_kind(config: temporal.TemporalConfig | None) -> LaVieKind | None:
    """The network of LaVie that has these temporal layers, if one has."""
    return next((kind for kind in LAVIE_KINDS if kind.temporal == config), None)


def check_lavie_layers(
    found: temporal.TemporalConfig | None, wanted: temporal.TemporalConfig | None, name: str
) -> None:
    """Check that a model has the temporal layers of its weights, where these are LaVie's.

    Errors: `UserError` that begins with `name`.
    """
    if lavie_kind(found) and found != wanted:
        raise UserError(
            f"{name}: its U-Net has LaVie's temporal layers, and config.model.unet.temporal others: "
            "train with --config=configs/lavie.py"
        )


def _kind_of(tensors: Mapping[str, object]) -> LaVieKind:
    if any(".attn_temporal." in key for key in tensors):
        return VSR
    return BASE if any(re.fullmatch(_BIAS, key) for key in tensors) else INTERPOLATION


def _check_frequencies(keys: set[str], tensors: Tensors, where: str) -> None:
    """Errors: `UserError` for constants of the rotary embedding that are not those of the formula.

    Averaging and half precision move them by less than a thousandth.
    """
    for key in sorted(keys):
        found, known = tensors[key], rotary_frequencies()
        if found.shape != known.shape or not np.allclose(found.read(), known, rtol=1e-3, atol=0):
            raise UserError(f"{where}: {key} is not the rotary embedding of LaVie (32 channels)")
