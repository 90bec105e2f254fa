"""Weight files, opened: safetensors (in one piece or in shards) here, PyTorch's pickles in `pickles.py`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16, which safetensors asks it for)
import numpy as np
from safetensors import SafetensorError, safe_open

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.pickles import open_pickle
from magicvideo_jax.weights.tensors import FLOATS, Mapped, Stored, Tensors

SAFETENSORS, INDEX = ".safetensors", ".index.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def open_tensors(path: Path) -> Tensors:
    """Open a weight file by its ending; shapes are known and nothing is read. `UserError` if it is not whole."""
    if path.name.endswith(".json"):
        return _open_shards(path)
    if path.suffix == SAFETENSORS:
        return _open_safetensors(path)
    if path.suffix in PICKLES:
        return open_pickle(path)
    raise UserError(
        f"{path}: not a weight file; give one that ends in {', '.join((SAFETENSORS, *PICKLES))}"
    )


def find_weights(folder: Path, stem: str, older: str) -> Path:
    """The weight file of a component: safetensors before pickles, the whole file before shards, plain before fp16."""
    names = [
        f"{stem}{SAFETENSORS}",
        f"{stem}{SAFETENSORS}{INDEX}",
        f"{stem}.fp16{SAFETENSORS}",
        f"{stem}{SAFETENSORS}.index.fp16.json",
        f"{older}.bin",
        f"{older}.fp16.bin",
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights here; looked for {', '.join(names)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. `UserError` if the file is missing or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _open_safetensors(path: Path) -> Tensors:
    file = Mapped(lambda: _checked(path, lambda: safe_open(path, "np")))

    def stored(key: str) -> Stored:
        view = file.handle.get_slice(key)
        shape, dtype = tuple(view.get_shape()), view.get_dtype()

        def read() -> np.ndarray:
            size = math.prod(shape) * np.dtype(FLOATS[dtype]).itemsize
            return _checked(path, lambda: file.take(size).get_tensor(key))

        return Stored(shape, dtype, read)

    return {key: _checked(path, lambda key=key: stored(key)) for key in file.handle.keys()}  # noqa: SIM118


def _checked(path: Path, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except (SafetensorError, OSError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise UserError(f"{path}: not a whole safetensors file ({reason})") from error


def _open_shards(index: Path) -> Tensors:
    """All tensors of the files that an index names. Which file holds which must be as the index says."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: no 'weight_map' from keys to files")
    tensors: dict[str, Stored] = {}
    problems: list[str] = []
    for name in sorted(set(places.values())):
        if Path(name).name != name or not name.endswith(SAFETENSORS):
            raise UserError(
                f"{index}: weight_map names {name!r}; a shard is a .safetensors file in the same folder"
            )
        shard = _open_safetensors(index.parent / name)
        problems += [f"{key} is in {name}" for key in shard if places.get(key) != name]
        tensors |= shard
    problems += [f"{key} is not in {name}" for key, name in places.items() if key not in tensors]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{index}: differs from its shards: {', '.join(problems[:8])}{more}")
    return tensors
