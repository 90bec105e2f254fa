"""Files of a pipeline's folder, and of one network in it: shared by the folder formats."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicvideo_jax.core.dataclass_dict import from_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.components import (
    MOTION,
    PIPELINE_PARTS,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    Weights,
)
from magicvideo_jax.weights.config_json import PIXEL_AUTOENCODER, is_whole_clip
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.jax_params import CheckpointParams
from magicvideo_jax.weights.motion_json import MOTION_UNET
from magicvideo_jax.weights.param_sources import (
    GivenParams,
    TensorParams,
    with_current_keys,
    without_extras,
)
from magicvideo_jax.weights.scheduler_json import noise_json, noise_settings
from magicvideo_jax.weights.tables.vae_keys import ATTENTION_WEIGHT
from magicvideo_jax.weights.tensor_files import (
    SAFETENSORS,
    find_weights,
    open_tensors,
    read_json,
    variants_in,
)
from magicvideo_jax.weights.tensors import flat_convolutions

INDEX, CONFIG, SCHEDULER, LOW_RESOLUTION, PARAMS, TOKENIZER = (
    "model_index.json",
    "config.json",
    "scheduler/scheduler_config.json",
    "low_res_scheduler/scheduler_config.json",
    "params",
    "tokenizer",
)
FORMAT, JAX = "_format", "magicvideo_jax"
"""The mark of our own folders in their `model_index.json`."""
SAMPLE = "_sample"
"""Sampling settings in `model_index.json`; diffusers passes over names that begin so."""

_LEFT_BEHIND = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "requires_safety_checker",
    "watermarker",
    "max_noise_level",
)
_SCHEDULERS = ("scheduler", "low_res_scheduler")
_LEFT_OUT = [None, None]
"""How a pipeline's index says that a part is not there."""

_UPSCALER_SCALING = 0.08333
"""Scale of the x4 upscaler's latents, which older copies of its VAE's config.json do not say."""

OpenPart = Callable[[ComponentSpec[Any]], tuple[ComponentWeights[Any], tuple[str, ...]]]
"""Opens one network of a folder; with notes."""


def left_behind(index: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts of published pipelines that are not read: they make no images, or are there twice."""
    has_motion = index.get(UNET.folder) == ["diffusers", MOTION_UNET]
    return (*_LEFT_BEHIND, MOTION.folder) if has_motion else _LEFT_BEHIND


def index_of(path: Path) -> Mapping[str, Any]:
    """Content of a folder's `model_index.json`; empty where there is none."""
    return read_json(path / INDEX) if (path / INDEX).is_file() else {}


def open_pipeline(path: Path, options: OpenOptions, open_part: OpenPart) -> Weights:
    """Open a pipeline's folder, whose networks `open_part` opens."""
    index = index_of(path)
    _check_index(index, path / INDEX)
    noise = read_json(path / SCHEDULER)
    tokenizer = options.tokenizer or path / TOKENIZER
    named = index.get("tokenizer")
    opened = {
        kind.folder: open_part(kind)
        for kind in PIPELINE_PARTS
        if index.get(kind.folder) != _LEFT_OUT
    }
    low_resolution: dict[str, Any] = {}
    if (path / LOW_RESOLUTION).is_file():
        json = read_json(path / LOW_RESOLUTION)
        settings = noise_settings(json, where=str(path / LOW_RESOLUTION))
        low_resolution = {"low_resolution": settings, "low_resolution_json": json}
        vae, vae_notes = opened[VAE.folder]
        opened[VAE.folder] = _with_upscaler_scaling(vae), vae_notes
    notes = [note for _, notes in opened.values() for note in notes]
    if not tokenizer.is_dir() and named != _LEFT_OUT:
        notes.append(f"{path} holds no tokenizer: give --tokenizer FOLDER to add one")
    class_name = named[1] if isinstance(named, list) and len(named) == 2 else None
    return Weights(
        parts={name: part for name, (part, _) in opened.items()},
        noise=noise_settings(noise, where=str(path / SCHEDULER)),
        noise_json=noise,
        sample_json=index.get(SAMPLE),
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        tokenizer_class=class_name or "CLIPTokenizer",
        notes=tuple(notes),
        **low_resolution,
    )


def _with_upscaler_scaling(vae: ComponentWeights[VAEConfig]) -> ComponentWeights[VAEConfig]:
    if "scaling_factor" in vae.json:
        return vae
    json = {**vae.json, "scaling_factor": _UPSCALER_SCALING}
    return replace(vae, config=replace(vae.config, scaling=_UPSCALER_SCALING), json=json)


def open_torch_part(
    kind: ComponentSpec[Any], folder: Path, *, temporal: Path | None = None, variant: str = ""
) -> tuple[ComponentWeights[Any], tuple[str, ...]]:
    """Open a network in diffusers' layout: config.json and weights in `folder`, and notes.

    `temporal` is the folder of the temporal layers, used where it exists. A network without the
    `variant` has its plain files taken.
    """
    config, json, added = _configured(kind, folder, temporal)
    if not getattr(config, "has_parameters", True):
        return _without_parameters(kind, config, json, folder), ()
    if variant not in variants_in(folder, kind.stem, kind.older):
        variant = ""
    file = find_weights(folder, kind.stem, kind.older, variant=variant)
    tensors = with_current_keys(open_tensors(file), kind.aliases, where=str(file))
    tensors, notes = without_extras(tensors, kind.extras, where=str(file))
    tensors = flat_convolutions(tensors, ATTENTION_WEIGHT)
    # Motion modules are among PyTorch's weights; their folder of temporal layers says no more than
    # their configuration.
    if added is not None and (file_of_ours := added / f"{kind.stem}{SAFETENSORS}").is_file():
        tensors = {**tensors, **open_tensors(file_of_ours)}
    return ComponentWeights(kind, config, json, TensorParams(kind.table, tensors, str(file))), notes


def open_jax_part(kind: ComponentSpec[Any], path: Path) -> ComponentWeights[Any]:
    """Open a network of one of our folders."""
    folder = path / kind.folder
    config, json, _ = _configured(kind, folder, path / kind.temporal_folder)
    if not getattr(config, "has_parameters", True):
        return _without_parameters(kind, config, json, folder)
    return ComponentWeights(kind, config, json, CheckpointParams(folder / PARAMS))


def _without_parameters(
    kind: ComponentSpec[Any], config: Any, json: Mapping[str, Any], folder: Path
) -> ComponentWeights[Any]:
    return ComponentWeights(kind, config, json, GivenParams({}, dict, str(folder)))


def temporal_of(folder: Path | None, kind: ComponentSpec[Any]) -> Any:
    """Configuration of a network's temporal layers; None where there are none."""
    if folder is None or kind.temporal is None or not (folder / CONFIG).exists():
        return None
    return from_plain(kind.temporal, read_json(folder / CONFIG), str(folder / CONFIG))


def assumed_noise(noise: NoiseScheduleConfig) -> dict[str, Any]:
    """Fields of `Weights` for a schedule that no file tells."""
    return {"noise": noise, "noise_json": noise_json(noise)}


def _configured(
    kind: ComponentSpec[Any], folder: Path, temporal: Path | None
) -> tuple[Any, Mapping[str, Any], Path | None]:
    """A network's configuration, its config.json, and the folder of its temporal layers if it has
    any."""
    where = folder / CONFIG
    content, added = read_json(where), temporal_of(temporal, kind)
    config = kind.read(content, where=str(where), **({} if added is None else {"temporal": added}))
    json = kind.write(config) if is_whole_clip(content) else content
    return config, json, None if added is None else temporal


def _check_index(index: Mapping[str, Any], where: Path) -> None:
    """Every network that the pipeline names is one that we have."""
    pipeline = str(index.get("_class_name"))
    if "StableDiffusionXL" in pipeline:
        raise UserError(
            f"{where}: {pipeline} (Stable Diffusion XL); supported: Stable Diffusion 1.x and 2.x"
        )
    known = {kind.folder: [kind.library[1]] for kind in PIPELINE_PARTS}
    known[UNET.folder].append(MOTION_UNET)
    known[VAE.folder].append(PIXEL_AUTOENCODER)
    for name, value in index.items():
        if (
            name.startswith("_")
            or name in (*left_behind(index), *_SCHEDULERS, "tokenizer")
            or value in (_LEFT_OUT, None)
        ):
            continue
        class_name = value[1] if isinstance(value, list) and len(value) == 2 else value
        if class_name not in known.get(name, []):
            wanted = known.get(name, ["a pipeline without it (Stable Diffusion 1.x or 2.x)"])
            raise UserError(
                f"{where}: field '{name}' is {value!r}; supported: {' or '.join(wanted)}"
            )
    absent = [name for name in known if name not in index]
    if absent:
        raise UserError(f"{where}: names no {', '.join(absent)}")
