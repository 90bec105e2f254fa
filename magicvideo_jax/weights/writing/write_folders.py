"""Writing weights: as a folder in diffusers' layout, or as one of ours with the same
configuration files.

Networks are written one after the other, so that no more than one is in memory. A VAE alone
becomes a folder of `vae/`, TAESD a folder of its own files.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, size_in_bytes
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.components import (
    MOTION,
    PIPELINE_PARTS,
    TEXT,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    Weights,
)
from magicvideo_jax.weights.config_json import PIXEL_AUTOENCODER
from magicvideo_jax.weights.folders import (
    CONFIG,
    FORMAT,
    INDEX,
    JAX,
    LOW_RESOLUTION,
    PARAMS,
    SAMPLE,
    SCHEDULER,
    TOKENIZER,
)
from magicvideo_jax.weights.formats.taesd_files import HALVES, TAESD, TAESD_CLASS, taesd_file
from magicvideo_jax.weights.jax_params import save_params
from magicvideo_jax.weights.motion_json import MOTION_UNET, motion_unet_json
from magicvideo_jax.weights.motion_weights import diffusers_positions, has_motion
from magicvideo_jax.weights.streaming import Tick, silent
from magicvideo_jax.weights.tables.naming import Layout, Name, NamingStyle, Table, name_of
from magicvideo_jax.weights.tensor_files import SAFETENSORS
from magicvideo_jax.weights.writing.write_safetensors import write_safetensors

_ONLY_IN = {
    "StableDiffusionPipeline": {
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    },
    "AnimateDiffPipeline": {"image_encoder": [None, None], MOTION.folder: [None, None]},
    "StableDiffusionUpscalePipeline": {"safety_checker": [None, None], "watermarker": [None, None]},
}
"""Fields of `model_index.json` that some of diffusers' pipelines have and others have not."""

ProgressFactory = Callable[[str, int], AbstractContextManager[Tick]]
"""`with progress("unet: reading", total_bytes) as tick`: what the verbs show."""


def no_progress(_: str, __: int) -> AbstractContextManager[Tick]:
    """A `ProgressFactory` that shows nothing."""
    return nullcontext(silent)


def check_complete(weights: Weights, where: str) -> None:
    """Check that weights are a whole pipeline, or a VAE or motion modules alone. Errors:
    `UserError` naming the part that is missing."""
    parts = weights.parts
    vae = parts.get(VAE.folder)
    if set(parts) in ({VAE.folder}, {MOTION.folder}):
        return
    missing = [kind for kind in PIPELINE_PARTS if kind.folder not in parts]
    if missing:
        flags = {UNET: "a SOURCE with a U-Net", VAE: "--vae WEIGHTS", TEXT: "--text WEIGHTS"}
        raise UserError(
            f"{where}: holds no {' and no '.join(kind.words for kind in missing)}: "
            f"give {' and '.join(flags[kind] for kind in missing)}"
        )
    if vae is not None and vae.kind is TAESD:
        raise UserError(
            f"{where}: uses TAESD, which cannot be exported as the pipeline's VAE: give --vae WEIGHTS"
        )


def write_jax(weights: Weights, folder: Path, *, progress: ProgressFactory = no_progress) -> None:
    """Write a folder of ours: float32 Orbax checkpoints beside the configurations, which stay as
    they were found."""
    for part in weights.parts.values():
        place = folder if part.kind is TAESD else folder / part.kind.folder
        params = load_with_progress(part, progress)
        with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
            if params:
                save_params(place / PARAMS, params)
            tick(size_in_bytes(params))
        del params
        if part.kind is TAESD:
            halves = [half for half in HALVES if half not in part.lacks]
            index = {"_class_name": TAESD_CLASS, FORMAT: JAX, "halves": halves}
            write_config(folder / INDEX, index)
        else:
            write_config(place / CONFIG, part.json)
    _write_rest(weights, folder, {FORMAT: JAX})


def write_diffusers(
    weights: Weights,
    folder: Path,
    *,
    dtype: type = np.float32,
    progress: ProgressFactory = no_progress,
) -> None:
    """Write a folder that diffusers' StableDiffusionPipeline loads, or its AnimateDiffPipeline
    where the U-Net has motion modules; `dtype` is float32, float16 or bfloat16.

    What else a video network adds goes into `unet_temporal/` and `vae_temporal/`, under our names
    and always float32.
    """
    for part in weights.parts.values():
        params = load_with_progress(part, progress)
        with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
            _write_weights(part, params, folder, dtype=dtype, tick=tick)
        del params
        if part.kind is not TAESD:
            write_config(folder / part.kind.folder / CONFIG, _for_torch(part))
    _write_rest(weights, folder, {})


def _for_torch(part: ComponentWeights[Any]) -> dict[str, Any]:
    """Content of config.json for PyTorch: a U-Net with motion modules is another class there, and a
    text encoder's says float32.

    transformers 5 loads a network in the type that this file says, or else in that of the
    weights, whereas diffusers always loads float32: without the word, a float16 text encoder
    would meet a float32 U-Net.
    """
    json = {field: value for field, value in part.json.items() if field != "torch_dtype"}
    if part.kind is TEXT:
        return json | {"dtype": "float32"}
    if has_motion(part) and json.get("_class_name") != MOTION_UNET:
        return motion_unet_json(part.config, sample_size=json.get("sample_size", 64))
    return dict(part.json)


def write_part_file(
    part: ComponentWeights[Any],
    file: Path,
    names: Mapping[str, Name],
    constants: Mapping[str, np.ndarray],
    *,
    dtype: type,
    progress: ProgressFactory,
) -> None:
    """Write all parameters of a network as one safetensors file, under `names` by their paths, and
    `constants` beside them by their keys."""
    params = load_with_progress(part, progress)
    with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
        write_named(file, names, flatten(params), constants, dtype=dtype, tick=tick)


def names_of(part: ComponentWeights[Any], table: Table) -> dict[str, Name]:
    """What a key table calls the parameters of a network, by their paths."""
    shapes = flatten(part.shapes())
    return {path: name_of(table, path, len(x.shape)) for path, x in shapes.items()}


def load_with_progress(part: ComponentWeights[Any], progress: ProgressFactory) -> Params:
    """All parameters of a network, on the default device."""
    shapes = part.shapes()
    with progress(f"{part.kind.folder}: reading", size_in_bytes(shapes)) as tick:
        return part.load(shapes, tick=tick)


def _write_weights(
    part: ComponentWeights[Any], params: Params, folder: Path, *, dtype: type, tick: Tick
) -> None:
    flat = flatten(params)
    names = names_of(part, part.kind.table)
    theirs = {path: name for path, name in names.items() if name.leaves is NamingStyle.PYTORCH}
    constants = diffusers_positions(part) if has_motion(part) else {}
    for file, group in _files_of(part, theirs).items():
        if group:
            write_named(folder / file, group, flat, constants, dtype=dtype, tick=tick)
    # What a video network adds: float32, in a folder of its own.
    if added := {path: name for path, name in names.items() if name.leaves is NamingStyle.OURS}:
        file = folder / part.kind.temporal_folder / f"{part.kind.stem}{SAFETENSORS}"
        write_named(file, added, flat, tick=tick)


def _files_of(
    part: ComponentWeights[Any], names: Mapping[str, Name]
) -> Mapping[str, Mapping[str, Name]]:
    """The weight files of a network and what goes into each: TAESD has one for each half."""
    if part.kind is not TAESD:
        return {f"{part.kind.folder}/{part.kind.stem}{SAFETENSORS}": names}
    return {
        taesd_file(half): {
            path: name._replace(key=name.key.removeprefix(f"{half}."))
            for path, name in names.items()
            if path.startswith(f"{half}.")
        }
        for half in HALVES
        if half not in part.lacks
    }


def write_named(
    file: Path,
    names: Mapping[str, Name],
    flat: Mapping[str, Any],
    constants: Mapping[str, np.ndarray] = MappingProxyType({}),
    *,
    dtype: type = np.float32,
    tick: Tick = silent,
) -> None:
    """Write those parameters of `flat` that are named, under their names in PyTorch, and constants
    under theirs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parameters = ((name.key, name.layout, flat[path]) for path, name in names.items())
    shapes = {name.key: name.layout.shape_of(flat[path].shape) for path, name in names.items()}
    write_safetensors(
        file,
        chain(parameters, ((key, Layout.SAME, array) for key, array in constants.items())),
        shapes | {key: array.shape for key, array in constants.items()},
        dtype=dtype,
        tick=tick,
    )


def _write_rest(weights: Weights, folder: Path, mark: Mapping[str, str]) -> None:
    """Write everything but networks."""
    for part in weights.parts.values():
        _write_temporal_config(part.kind, getattr(part.config, "temporal", None), folder)
    if weights.noise_json is None:
        return
    write_config(folder / SCHEDULER, weights.noise_json)
    low_resolution = weights.low_resolution_json
    if low_resolution is not None:
        write_config(folder / LOW_RESOLUTION, low_resolution)
    if weights.tokenizer is not None:
        try:
            shutil.copytree(weights.tokenizer, folder / TOKENIZER)
        except (OSError, shutil.Error) as error:
            raise UserError(
                f"{weights.tokenizer}: the tokenizer cannot be copied ({error})"
            ) from error
    has_tokenizer = weights.tokenizer is not None
    classes = {kind.folder: list(kind.library) for kind in (TEXT, UNET, VAE)}
    if weights.parts[VAE.folder].json.get("_class_name") == PIXEL_AUTOENCODER:
        classes[VAE.folder] = [JAX, PIXEL_AUTOENCODER]
    pipeline = "StableDiffusionPipeline"
    if low_resolution is not None:
        pipeline = "StableDiffusionUpscalePipeline"
        classes["low_res_scheduler"] = _scheduler_class(low_resolution)
    if not mark and has_motion(weights.parts[UNET.folder]):
        pipeline = "AnimateDiffPipeline"
        classes[UNET.folder] = ["diffusers", MOTION_UNET]
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.42.1",
        **mark,
        **({} if weights.sample_json is None else {SAMPLE: weights.sample_json}),
        "feature_extractor": [None, None],
        **_ONLY_IN[pipeline],
        "scheduler": _scheduler_class(weights.noise_json),
        "tokenizer": ["transformers", weights.tokenizer_class] if has_tokenizer else [None, None],
        **classes,
    }
    write_config(folder / INDEX, index)


def _scheduler_class(content: Mapping[str, Any]) -> list[str]:
    return ["diffusers", content.get("_class_name", "DDIMScheduler")]


def _write_temporal_config(kind: ComponentSpec[Any], temporal: Any, folder: Path) -> None:
    if temporal is not None:
        write_config(folder / kind.temporal_folder / CONFIG, to_plain(temporal))


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration as it was found: with -Infinity, which `core.files.write_json` replaces
    and diffusers' schedulers hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
