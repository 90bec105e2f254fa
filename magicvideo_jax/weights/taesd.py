"""TAESD's files: `taesd_encoder.safetensors` and `taesd_decoder.safetensors`, either of which may be absent."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.taesd import TAESD
from magicvideo_jax.weights.files import SAFETENSORS, open_tensors, read_json
from magicvideo_jax.weights.jax_params import restore_params, save_params
from magicvideo_jax.weights.parts import Load
from magicvideo_jax.weights.reading import loader
from magicvideo_jax.weights.sources import FORMAT, INDEX, JAX, PARAMS
from magicvideo_jax.weights.tables import TAESD as TABLE
from magicvideo_jax.weights.tables import name_of
from magicvideo_jax.weights.write import write_safetensors

_HALVES = ("encoder", "decoder")
_CLASS = "TAESD"


@dataclass(frozen=True)
class TAESDSource:
    """An opened source of TAESD's weights."""

    halves: tuple[str, ...]
    """Which of encoder and decoder it has: give `load` those shapes alone, or name the other `may_be_missing`."""
    load: Load

    def shapes(self) -> dict[str, Any]:
        """Shapes of the halves that are there."""
        network = bind(lambda keys: TAESD(keys=keys))
        return {half: network.shapes[half] for half in self.halves}


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
        if not isinstance(halves, list) or not halves or any(half not in _HALVES for half in halves):
            raise UserError(f"{path / INDEX}: field 'halves' is {halves!r}; supported: some of {', '.join(_HALVES)}")

        def load(shapes: Any, **how: Any) -> Any:
            return restore_params(path / PARAMS, shapes, **how)

        return TAESDSource(tuple(halves), load)
    files = _files(path)
    if not files:
        raise UserError(f"{path}: no taesd_encoder{SAFETENSORS} or taesd_decoder{SAFETENSORS} here")
    tensors = {f"{half}.{key}": tensor for half, file in files.items() for key, tensor in open_tensors(file).items()}
    return TAESDSource(tuple(files), loader(TABLE, tensors, where=str(path)))


def write_taesd_jax(source: TAESDSource, folder: Path) -> None:
    """Write a folder of ours."""
    save_params(folder / PARAMS, source.load(source.shapes()))
    index = {"_class_name": _CLASS, FORMAT: JAX, "halves": source.halves}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_taesd(source: TAESDSource, folder: Path, *, dtype: type = np.float32) -> None:
    """Write TAESD's own files."""
    flat = flatten(source.load(source.shapes()))
    for half in source.halves:
        names = {path: name_of(TABLE, path, x.ndim) for path, x in flat.items() if path.startswith(f"{half}.")}
        write_safetensors(
            folder / f"taesd_{half}{SAFETENSORS}",
            ((name.key.removeprefix(f"{half}."), name.layout, flat[path]) for path, name in names.items()),
            {n.key.removeprefix(f"{half}."): n.layout.shape_of(flat[path].shape) for path, n in names.items()},
            dtype=dtype,
        )


def _files(path: Path) -> dict[str, Path]:
    """The file of each half that is there."""
    names = {half: f"taesd_{half}{SAFETENSORS}" for half in _HALVES}
    if path.is_dir():
        return {half: path / name for half, name in names.items() if (path / name).is_file()}
    return {half: path for half, name in names.items() if path.name == name and path.is_file()}
