"""TAESD's files: `taesd_encoder.safetensors` and `taesd_decoder.safetensors`, either of which may be absent. What a
VideoVAE adds lies beside them in `vae_temporal/`, as it does beside other VAEs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models import taesd
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights.components import VAE, ComponentSpec, ComponentWeights, LoadParams
from magicvideo_jax.weights.jax_params import restore_params, save_params
from magicvideo_jax.weights.load import loader
from magicvideo_jax.weights.open import FORMAT, INDEX, JAX, PARAMS, temporal_of
from magicvideo_jax.weights.tables import TAESD as TABLE
from magicvideo_jax.weights.tables import NamingStyle, name_of
from magicvideo_jax.weights.tensor_files import SAFETENSORS, open_tensors, read_json
from magicvideo_jax.weights.write_folders import (
    write_added,
    write_config_json,
    write_named,
    write_temporal_config,
)

HALVES = ("encoder", "decoder")
_CLASS = "TAESD"

TAESD: ComponentSpec[VAEConfig] = replace(VAE, table=TABLE, write=lambda _: {})
"""In a VAE's place; it has no configuration of its own to be written."""


@dataclass(frozen=True)
class TAESDSource:
    """An opened source of TAESD's weights."""

    halves: tuple[str, ...]
    """Which of encoder and decoder it has: give `load` those shapes alone, or name the other `may_be_missing`."""
    load: LoadParams
    temporal: TemporalDecoderConfig | None = None
    """Of a VideoVAE."""

    def shapes(self) -> dict[str, Any]:
        """Shapes of the halves that are there."""
        network = bind(lambda keys: taesd.TinyAutoencoder(keys=keys, temporal=self.temporal))
        return {half: network.shapes[half] for half in self.halves}

    def part(self) -> ComponentWeights[VAEConfig]:
        """As the VAE of a model."""
        return ComponentWeights(
            TAESD, VAEConfig(kind=VAEKind.TAESD, temporal=self.temporal), {}, self.load
        )


def is_taesd(path: Path) -> bool:
    """Whether a file or folder holds TAESD's weights, theirs or ours."""
    return bool(_files(path)) or is_taesd_jax(path)


def is_taesd_jax(path: Path) -> bool:
    """Whether the folder is one that `convert` made of TAESD."""
    return (path / INDEX).is_file() and read_json(path / INDEX).get("_class_name") == _CLASS


def open_taesd(path: Path | str) -> TAESDSource:
    """Open TAESD's weights: a folder of its files, one of them, or what `convert` made. `UserError` if not whole."""
    path = Path(path)
    if is_taesd_jax(path):
        halves = read_json(path / INDEX).get("halves")
        if not isinstance(halves, list) or not halves or any(half not in HALVES for half in halves):
            raise UserError(
                f"{path / INDEX}: field 'halves' is {halves!r}; supported: some of {', '.join(HALVES)}"
            )

        def load(shapes: Any, **how: Any) -> Any:
            return restore_params(path / PARAMS, shapes, **how)

        return TAESDSource(tuple(halves), load, temporal_of(path, TAESD))
    files = _files(path)
    if not files:
        raise UserError(f"{path}: no taesd_encoder{SAFETENSORS} or taesd_decoder{SAFETENSORS} here")
    tensors = {
        f"{half}.{key}": tensor
        for half, file in files.items()
        for key, tensor in open_tensors(file).items()
    }
    temporal = temporal_of(path, TAESD) if "decoder" in files else None
    if temporal is not None:
        tensors |= open_tensors(path / TAESD.temporal_folder / f"{TAESD.stem}{SAFETENSORS}")
    return TAESDSource(tuple(files), loader(TABLE, tensors, where=str(path)), temporal)


def write_taesd_jax(source: TAESDSource, folder: Path) -> None:
    """Write a folder of ours."""
    save_params(folder / PARAMS, source.load(source.shapes()))
    index = {"_class_name": _CLASS, FORMAT: JAX, "halves": source.halves}
    write_config_json(folder / INDEX, index)
    write_temporal_config(TAESD, source.temporal, folder)


def write_taesd(source: TAESDSource, folder: Path, *, dtype: type = np.float32) -> None:
    """Write TAESD's own files."""
    flat = flatten(source.load(source.shapes()))
    for half in source.halves:
        names = {
            path: name_of(TABLE, path, x.ndim)
            for path, x in flat.items()
            if path.startswith(f"{half}.")
        }
        theirs = {
            path: name._replace(key=name.key.removeprefix(f"{half}."))
            for path, name in names.items()
            if name.leaves is NamingStyle.PYTORCH
        }
        write_named(folder / f"taesd_{half}{SAFETENSORS}", theirs, flat, dtype=dtype)
        write_added(TAESD, names, flat, folder)
    write_temporal_config(TAESD, source.temporal, folder)


def _files(path: Path) -> dict[str, Path]:
    """The file of each half that is there."""
    names = {half: f"taesd_{half}{SAFETENSORS}" for half in HALVES}
    if path.is_dir():
        return {half: path / name for half, name in names.items() if (path / name).is_file()}
    return {half: path for half, name in names.items() if path.name == name and path.is_file()}
