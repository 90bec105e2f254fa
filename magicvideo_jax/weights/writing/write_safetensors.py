"""A safetensors file, written tensor by tensor: the format is a length, a JSON header and the
tensors in a row.

safetensors' own writer wants all tensors in memory at once. Files are always read by the library.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from jax.typing import ArrayLike

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.streaming import Tick, silent
from magicvideo_jax.weights.tables.naming import Layout

_NAMES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}
_ALIGNMENT = 8


def write_safetensors(
    path: Path,
    tensors: Iterable[tuple[str, Layout, ArrayLike]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: type = np.float32,
    tick: Tick = silent,
) -> None:
    """Write our parameters in PyTorch's layout; `shapes` are those in the file, in the tensors'
    order.

    `UserError` if the file cannot be written or a value is too large for `dtype`.
    """
    kind, offset = np.dtype(dtype), 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for key, shape in shapes.items():
        end = offset + math.prod(shape) * kind.itemsize
        header[key] = {"dtype": _NAMES[kind], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for key, layout, ours in tensors:
                theirs = narrowed(
                    np.ascontiguousarray(layout.to_theirs(np.asarray(ours))), kind, key
                )
                file.write(theirs.view(np.uint8).data if theirs.ndim else theirs.tobytes())
                tick(theirs.size * 4)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def narrowed(array: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    """The array as `dtype`. `UserError` where finite numbers would become infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if np.isinf(narrow).any() and np.isinf(narrow).sum() > np.isinf(array).sum():
        raise UserError(f"{key}: holds numbers beyond {dtype}'s range; write float32")
    return narrow
