"""Where weights come from: `open_source(path)` knows a diffusers folder, a single file and our own folders apart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from magicvideo_jax.core.dataclass_dict import from_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    LoadParams,
    StableDiffusion,
)
from magicvideo_jax.weights.compvis import is_single_file
from magicvideo_jax.weights.jax_params import restore_params
from magicvideo_jax.weights.load import loader, with_current_keys
from magicvideo_jax.weights.scheduler_json import noise_settings
from magicvideo_jax.weights.single_file import open_single_file
from magicvideo_jax.weights.tensor_files import SAFETENSORS, find_weights, open_tensors, read_json
from magicvideo_jax.weights.tensors import Tensors

INDEX, CONFIG, SCHEDULER, PARAMS = (
    "model_index.json",
    "config.json",
    "scheduler/scheduler_config.json",
    "params",
)
FORMAT, JAX = "_format", "magicvideo_jax"
"""The mark of our own folders in their `model_index.json`."""

# Parts of published pipelines that make no images: they are left behind.
_LEFT_BEHIND = ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")

NetworkConfig = TypeVar("NetworkConfig")


def open_source(
    path: Path | str,
    *,
    ema: bool = False,
    prediction: Prediction | None = None,
    tokenizer: Path | None = None,
) -> StableDiffusion:
    """Open Stable Diffusion weights; configurations are read, parameters wait for `source.unet.load(...)`.

    `path` is a diffusers folder, a single-file checkpoint or a folder that `convert` or training wrote. `ema`,
    `prediction` and `tokenizer` tell what a single file does not. `UserError` if it is none of these, or not whole.
    """
    path = Path(path)
    if path.is_dir():
        if ema or prediction is not None:
            raise UserError(
                f"{path}: --ema and --prediction_type are for single files; a folder says these itself"
            )
        return _open_folder(path, tokenizer)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    tensors = open_tensors(path)
    if not is_single_file(tensors):
        some = ", ".join(sorted(tensors)[:3])
        raise UserError(
            f"{path}: not a Stable Diffusion checkpoint: no keys model.diffusion_model.*, but {some}"
        )
    return open_single_file(path, tensors, ema=ema, prediction=prediction, tokenizer=tokenizer)


def is_jax_folder(path: Path) -> bool:
    """Whether `convert` or training wrote the folder."""
    return (path / INDEX).is_file() and read_json(path / INDEX).get(FORMAT) == JAX


def is_vae_alone(path: Path) -> bool:
    """Whether a folder holds `vae/` (and perhaps `vae_temporal/`) and no pipeline."""
    return (path / VAE.folder / CONFIG).is_file() and not (path / INDEX).exists()


def open_vae(path: Path) -> ComponentWeights[VAEConfig]:
    """The VAE of a folder, in diffusers' layout or ours, whatever else is there."""
    return _part(VAE, path, ours=(path / VAE.folder / PARAMS).exists())


def _open_folder(path: Path, tokenizer: Path | None) -> StableDiffusion:
    if not (path / INDEX).is_file():
        raise UserError(
            f"{path}: no {INDEX} in it; give a Stable Diffusion folder in diffusers' layout, or our own"
        )
    index = read_json(path / INDEX)
    _check_index(index, path / INDEX)
    ours = index.get(FORMAT) == JAX
    noise = read_json(path / SCHEDULER)
    found = tokenizer or path / "tokenizer"
    named = index.get("tokenizer")
    return StableDiffusion(
        unet=_part(UNET, path, ours=ours),
        vae=_part(VAE, path, ours=ours),
        text_encoder=_part(TEXT, path, ours=ours),
        noise=noise_settings(noise, where=str(path / SCHEDULER)),
        noise_json=noise,
        tokenizer=found if found.is_dir() else None,
        tokenizer_class=named[1]
        if isinstance(named, list) and len(named) == 2 and named[1]
        else "CLIPTokenizer",
        notes=()
        if found.is_dir()
        else (f"{path} holds no tokenizer: give --tokenizer FOLDER to add one",),
    )


def _part(
    kind: ComponentSpec[NetworkConfig], path: Path, *, ours: bool
) -> ComponentWeights[NetworkConfig]:
    where = path / kind.folder / CONFIG
    content, temporal = read_json(where), temporal_of(path, kind)
    config = kind.read(
        content, where=str(where), **({} if temporal is None else {"temporal": temporal})
    )
    return ComponentWeights(
        kind, config, content, _load_of(kind, path, ours=ours, temporal=temporal is not None)
    )


def temporal_of(path: Path, kind: ComponentSpec[Any]) -> Any:
    """The configuration of what a video network adds, where a folder has any; else None."""
    added = path / kind.temporal_folder / CONFIG
    if kind.temporal is None or not added.exists():
        return None
    return from_plain(kind.temporal, read_json(added), str(added))


def _load_of(kind: ComponentSpec[Any], path: Path, *, ours: bool, temporal: bool) -> LoadParams:
    folder = path / kind.folder
    if ours:

        def load(shapes: Any, **how: Any) -> Any:
            return restore_params(folder / PARAMS, shapes, **how)

        return load
    file = find_weights(folder, kind.stem, kind.older)
    tensors: Tensors = with_current_keys(open_tensors(file), kind.aliases, where=str(file))
    if temporal:
        tensors = {
            **tensors,
            **open_tensors(path / kind.temporal_folder / f"{kind.stem}{SAFETENSORS}"),
        }
    return loader(kind.table, tensors, where=str(file), extras=kind.extras)


def _check_index(index: Mapping[str, Any], where: Path) -> None:
    """Every network that the pipeline names is one that we have."""
    known = {kind.folder: kind.library[1] for kind in (UNET, VAE, TEXT)}
    for name, value in index.items():
        if (
            name.startswith("_")
            or name in (*_LEFT_BEHIND, "scheduler", "tokenizer")
            or value in ([None, None], None)
        ):
            continue
        class_name = value[1] if isinstance(value, list) and len(value) == 2 else value
        if known.get(name) != class_name:
            wanted = known.get(name, "a pipeline without it (Stable Diffusion 1.x or 2.x)")
            raise UserError(f"{where}: field '{name}' is {value!r}; supported: {wanted}")
    absent = [name for name in known if name not in index]
    if absent:
        raise UserError(f"{where}: names no {', '.join(absent)}")
