"""PyTorch's own form of a file, a zip archive with a pickle that describes tensors, written without
PyTorch.

The pickle is put together from the few operations that describe nested dictionaries of contiguous
tensors; `torch.load(file, weights_only=True)` reads it.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from magicvideo_jax.core.errors import UserError

_STORAGES = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
}
_BYTES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}
_FOLDER = "archive"


class WrittenTensor(NamedTuple):
    """A tensor that is written when its turn comes."""

    shape: tuple[int, ...]
    dtype: str
    """Name of the type in safetensors: `F32`, `I64`."""
    read: Callable[[], np.ndarray]


def write_torch_file(path: Path, entries: Mapping[str, Mapping[str, WrittenTensor]]) -> None:
    """Write a dictionary of dictionaries of tensors.

    Errors: `UserError` where the file cannot be written.
    """
    tensors = [tensor for entry in entries.values() for tensor in entry.values()]
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{_FOLDER}/data.pkl", _pickle(entries))
            archive.writestr(f"{_FOLDER}/byteorder", "little")
            for number, tensor in enumerate(tensors):
                array = np.ascontiguousarray(tensor.read(), _BYTES[tensor.dtype])
                archive.writestr(f"{_FOLDER}/data/{number}", array.tobytes())
            archive.writestr(f"{_FOLDER}/version", "3\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _pickle(entries: Mapping[str, Mapping[str, WrittenTensor]]) -> bytes:
    content, number = pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK, 0
    for name, entry in entries.items():
        content += _text(name) + pickle.EMPTY_DICT + pickle.MARK
        for key, tensor in entry.items():
            content += _text(key) + _tensor(tensor, number)
            number += 1
        content += pickle.SETITEMS
    return content + pickle.SETITEMS + pickle.STOP


def _tensor(tensor: WrittenTensor, number: int) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
    strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    kind = _name("torch", _STORAGES[tensor.dtype])
    parts = (
        _text("storage"),
        kind,
        _text(str(number)),
        _text("cpu"),
        _int(math.prod(tensor.shape)),
    )
    storage = _tuple(*parts) + pickle.BINPERSID
    hooks = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _tuple(
        storage,
        _int(0),
        _tuple(*map(_int, tensor.shape)),
        _tuple(*map(_int, strides)),
        pickle.NEWFALSE,
        hooks,
    )
    return _name("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    content = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content


def _int(number: int) -> bytes:
    content = number.to_bytes(8, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content
