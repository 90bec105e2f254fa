"""Weight files, opened by their first bytes: safetensors (one file or shards) here, pickles in
`pickles.py`."""

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16, which safetensors asks it for)
import numpy as np
from safetensors import SafetensorError, safe_open

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.pickles import open_pickle
from magicvideo_jax.weights.tensors import NUMBERS, Mapped, Stored, Tensors

SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


class FileKind(Enum):
    """Kinds of files by their first bytes; the value names the kind in messages."""

    SAFETENSORS = "a safetensors file"
    PICKLE = "a PyTorch file"
    JSON = "JSON"
    LFS = "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"
    PAGE = "a web page, not weights: the download answered with HTML, so download the file itself"
    EMPTY = "empty (0 bytes): the download was cut off"
    GGUF = "a GGUF file, which is not supported: get a .safetensors file"
    HDF5 = "an HDF5 file, which is not supported: get a .safetensors file"
    UNKNOWN = "not a weight file"


def kind_of(path: Path) -> FileKind:
    """Tell a file's kind from its first bytes. Errors: `UserError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return FileKind.EMPTY
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return FileKind.SAFETENSORS
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        return FileKind.PICKLE
    for start, kind in (
        (b"version https://git-lfs", FileKind.LFS),
        (b"<!doctype", FileKind.PAGE),
        (b"<html", FileKind.PAGE),
        (b"<?xml", FileKind.PAGE),
        (b"{", FileKind.JSON),
        (b"gguf", FileKind.GGUF),
        (b"\x89hdf", FileKind.HDF5),
    ):
        if text.startswith(start):
            return kind
    return FileKind.UNKNOWN


def has_tensors(path: Path) -> bool:
    """Whether a path is a weight file, by its content or, where that is damaged, by its ending."""
    if not path.is_file():
        return False
    kind = kind_of(path)
    if kind is FileKind.UNKNOWN:
        return path.suffix.lower() in (SAFETENSORS, *PICKLES)
    return kind in (FileKind.SAFETENSORS, FileKind.PICKLE)


def open_tensors(path: Path) -> Tensors:
    """Open a weight file; shapes are known and nothing is read. `UserError` if it is not whole."""
    kind, ending = kind_of(path), path.suffix.lower()
    if path.name.endswith(".json"):
        return _open_shards(path)
    if kind is FileKind.UNKNOWN and ending in (SAFETENSORS, *PICKLES):
        kind = FileKind.SAFETENSORS if ending == SAFETENSORS else FileKind.PICKLE
    if kind is FileKind.SAFETENSORS:
        return _open_safetensors(path)
    if kind is FileKind.PICKLE:
        return open_pickle(path)
    raise UserError(f"{path}: {kind.value}")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Texts in the header of a safetensors file; empty for other files.

    Errors: `UserError` if the file is not whole.
    """
    if kind_of(path) is not FileKind.SAFETENSORS:
        return {}
    return _checked(path, lambda: safe_open(path, "np").metadata()) or {}


def find_weights(folder: Path, stem: str, older: str, *, variant: str = "") -> Path:
    """Find the weight file of a component: safetensors before pickles, one file before shards.

    Without a `variant` the plain files are taken, else those of fp16.
    Errors: `UserError` that lists the variants which are there.
    """
    there = {path.name for path in folder.glob("*") if path.is_file()}
    name = best_weights(there, stem, older, variant=variant)
    if name is not None:
        return folder / name
    variants = variants_among(there, stem, older)
    if variants:
        raise UserError(
            f"{folder}: no weights{f' of variant {variant}' if variant else ''} here, "
            f"only the variants {', '.join(variants)}: name one with `convert --variant`"
        )
    looked_for = ", ".join(_names(stem, older, variant))
    raise UserError(f"{folder}: no weights here; looked for {looked_for}")


def best_weights(names: Collection[str], stem: str, older: str, *, variant: str = "") -> str | None:
    """Choose a component's weight file among the names of a folder's files, as `find_weights`
    does; None where there is none."""
    wanted = [variant] if variant else ["", "fp16"]
    candidates = [name for one in wanted for name in _names(stem, older, one)]
    best_first = sorted(candidates, key=lambda name: ".bin" in name)
    return next((name for name in best_first if name in names), None)


def variants_in(folder: Path, stem: str, older: str) -> list[str]:
    """Named variants of a component's weights: `fp16`, `non_ema`."""
    return variants_among({path.name for path in folder.glob("*")}, stem, older)


def variants_among(names: Collection[str], stem: str, older: str) -> list[str]:
    """Named variants of a component's weights among the names of a folder's files."""
    stems, variant = f"(?:{re.escape(stem)}|{re.escape(older)})", r"(?P<variant>[A-Za-z]\w*)"
    rows = (
        rf"{stems}\.{variant}\.(?:safetensors|bin)",
        rf"{stems}\.(?:safetensors|bin)\.index\.{variant}\.json",
    )
    found = [re.fullmatch(row, name) for row in rows for name in names]
    return sorted({match["variant"] for match in found if match})


def _names(stem: str, older: str, variant: str) -> Sequence[str]:
    """Files that may hold the weights of a variant, best first."""
    middle = f".{variant}" if variant else ""
    return [
        name
        for start, ending in ((stem, SAFETENSORS), (older, ".bin"))
        for name in (f"{start}{middle}{ending}", f"{start}{ending}.index{middle}.json")
    ]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. `UserError` if the file is missing or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        kind = kind_of(path)
        if kind in (FileKind.LFS, FileKind.PAGE, FileKind.EMPTY):
            raise UserError(f"{path}: {kind.value}") from error
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
            size = math.prod(shape) * np.dtype(NUMBERS[dtype]).itemsize
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
    """All tensors of the files that an index names. Which file holds which must be as the index
    says."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: no 'weight_map' from keys to files")
    tensors: dict[str, Stored] = {}
    problems: list[str] = []
    for name in sorted(set(places.values())):
        if Path(name).name != name or not name.endswith((SAFETENSORS, *PICKLES)):
            raise UserError(
                f"{index}: weight_map names {name!r}; a shard is a weight file in the same folder"
            )
        shard = open_tensors(index.parent / name)
        problems += [f"{key} is in {name}" for key in shard if places.get(key) != name]
        tensors |= shard
    problems += [f"{key} is not in {name}" for key, name in places.items() if key not in tensors]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{index}: differs from its shards: {', '.join(problems[:8])}{more}")
    return tensors
