"""Whole pipelines, written: as a diffusers folder, or as a folder of ours with the same configuration files.

Networks are written one after the other, so that no more than one is in memory.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, size_in_bytes
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    StableDiffusion,
)
from magicvideo_jax.weights.jax_params import save_params
from magicvideo_jax.weights.open import CONFIG, FORMAT, INDEX, JAX, PARAMS, SCHEDULER
from magicvideo_jax.weights.streaming import Tick, silent
from magicvideo_jax.weights.tables import Name, NamingStyle, name_of
from magicvideo_jax.weights.tensor_files import SAFETENSORS
from magicvideo_jax.weights.write_safetensors import write_safetensors

_OURS = (INDEX, "taesd_encoder.safetensors", "taesd_decoder.safetensors")
"""A folder that holds none of these files was not written by `convert`: it is never replaced."""

ProgressFactory = Callable[[str, int], AbstractContextManager[Tick]]
"""`with progress("unet: reading", total_bytes) as tick`: what the verbs show."""


def no_progress(_: str, __: int) -> AbstractContextManager[Tick]:
    """A `ProgressFactory` that nobody sees."""
    return nullcontext(silent)


def check_target(target: Path, *, overwrite: bool) -> None:
    """`UserError` where something is at `target` that may not be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise UserError(f"{target}: something other than a folder is there; give another TARGET")
    if not any(target.iterdir()):
        return
    if not any((target / name).exists() for name in _OURS):
        raise UserError(f"{target}: the folder holds other things; give another TARGET")
    if not overwrite:
        raise UserError(
            f"{target}: is there already; give another TARGET, or --overwrite to replace it"
        )


def write_jax(
    model: StableDiffusion, folder: Path, *, progress: ProgressFactory = no_progress
) -> None:
    """Write a folder of ours: float32 Orbax checkpoints beside the configurations, which stay as they were found."""
    for part in model.parts:
        params = _load(part, progress)
        with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
            save_params(folder / part.kind.folder / PARAMS, params)
            tick(size_in_bytes(params))
        del params
        write_config_json(folder / part.kind.folder / CONFIG, part.json)
    _write_rest(model, folder, {FORMAT: JAX})


def write_diffusers(
    model: StableDiffusion,
    folder: Path,
    *,
    dtype: type = np.float32,
    progress: ProgressFactory = no_progress,
) -> None:
    """Write a folder that diffusers' StableDiffusionPipeline loads; `dtype` is float32 or float16.

    What a video network adds goes into `unet_temporal/` and `vae_temporal/`, under our names and always float32.
    """
    for part in model.parts:
        params = _load(part, progress)
        with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
            _write_weights(part, params, folder, dtype=dtype, tick=tick)
        del params
        write_config_json(folder / part.kind.folder / CONFIG, part.json)
    _write_rest(model, folder, {})


def _load(part: ComponentWeights[Any], progress: ProgressFactory) -> Params:
    shapes = part.network().shapes
    with progress(f"{part.kind.folder}: reading", size_in_bytes(shapes)) as tick:
        return part.load(shapes, tick=tick)


def _write_weights(
    part: ComponentWeights[Any], params: Params, folder: Path, *, dtype: type, tick: Tick
) -> None:
    flat = flatten(params)
    names = {path: name_of(part.kind.table, path, x.ndim) for path, x in flat.items()}
    there = {path: name for path, name in names.items() if name.leaves is NamingStyle.PYTORCH}
    write_named(
        folder / part.kind.folder / f"{part.kind.stem}{SAFETENSORS}",
        there,
        flat,
        dtype=dtype,
        tick=tick,
    )
    write_added(part.kind, names, flat, folder, tick=tick)


def write_added(
    kind: ComponentSpec[Any],
    names: Mapping[str, Name],
    flat: Mapping[str, Any],
    folder: Path,
    *,
    tick: Tick = silent,
) -> None:
    """What a video network adds, if anything: float32, in a folder of its own."""
    if added := {path: name for path, name in names.items() if name.leaves is NamingStyle.OURS}:
        write_named(
            folder / kind.temporal_folder / f"{kind.stem}{SAFETENSORS}", added, flat, tick=tick
        )


def write_named(
    file: Path,
    names: Mapping[str, Name],
    flat: Mapping[str, Any],
    *,
    dtype: type = np.float32,
    tick: Tick = silent,
) -> None:
    """Those parameters of `flat` that are named, under their names over there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(
        file,
        ((name.key, name.layout, flat[path]) for path, name in names.items()),
        {name.key: name.layout.shape_of(flat[path].shape) for path, name in names.items()},
        dtype=dtype,
        tick=tick,
    )


def write_temporal_config(kind: ComponentSpec[Any], temporal: Any, folder: Path) -> None:
    """What `sources.temporal_of` reads, where there is anything to read."""
    if temporal is not None:
        write_config_json(folder / kind.temporal_folder / CONFIG, to_plain(temporal))


def _write_rest(model: StableDiffusion, folder: Path, mark: Mapping[str, str]) -> None:
    """Everything but networks."""
    for part in (model.unet, model.vae):
        write_temporal_config(part.kind, part.config.temporal, folder)
    write_config_json(folder / SCHEDULER, model.noise_json)
    if model.tokenizer is not None:
        try:
            shutil.copytree(model.tokenizer, folder / "tokenizer")
        except (OSError, shutil.Error) as error:
            raise UserError(
                f"{model.tokenizer}: the tokenizer cannot be copied ({error})"
            ) from error
    libraries = {kind.folder: list(kind.library) for kind in (TEXT, UNET, VAE)}
    scheduler = model.noise_json.get("_class_name", "DDIMScheduler")
    tokenizer = [None, None] if model.tokenizer is None else ["transformers", model.tokenizer_class]
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        **mark,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "tokenizer": tokenizer,
        **libraries,
    }
    write_config_json(folder / INDEX, index)


def write_config_json(path: Path, content: Mapping[str, Any]) -> None:
    """A configuration file, as diffusers writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
