"""PyTorch's own files (`.ckpt`, `.pt`, `.pth`, `.bin`), read without PyTorch and without running anything."""

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensors import Stored, Tensors
from magicvideo_jax.weights.torch_files.pickle_machine import ForeignName, Inert, PickleRefused
from magicvideo_jax.weights.torch_files.torch_forms import Places, read_archive, read_legacy
from magicvideo_jax.weights.torch_files.torch_names import SparseTensor, TorchTensor

_WRAPPERS = ("state_dict", "ema")
"""Entries that hold the weights of a checkpoint which holds more: Lightning's, and LaVie's average."""
_OPTIMIZERS = "torch.optim."
_MOST_NAMES = 1_000_000
"""Names of the largest TorchScript module: a small pickle can name the same tensor without end."""


def open_pickle(path: Path) -> Tensors:
    """The tensors of a checkpoint. `UserError` if the file is not whole, or names what is no data."""
    return _open(path, partial(_state_of, path))


def open_entries(path: Path, names: Collection[str]) -> Tensors:
    """The tensors of some entries of a checkpoint, each a dictionary of tensors, by `entry.key`; empty where
    there is none. Errors: those of `open_pickle`."""

    def state(content: Any) -> dict[str, TorchTensor]:
        entries = content if isinstance(content, Mapping) else {}
        return {
            f"{name}.{key}": tensor
            for name in names
            if isinstance(entry := entries.get(name), Mapping)
            for key, tensor in entry.items()
            if isinstance(key, str) and isinstance(tensor, TorchTensor)
        }

    return _open(path, state)


def _open(path: Path, state_of: Callable[[Any], dict[str, TorchTensor]]) -> Tensors:
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
            file.seek(0)
            content, places = (read_archive if is_archive else read_legacy)(file)
            state = state_of(content)
            size = file.seek(0, io.SEEK_END)
        return {key: _stored(path, tensor, places, size) for key, tensor in state.items()}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ForeignName as error:
        advice = "save its state_dict alone, or get a .safetensors file"
        if _OPTIMIZERS in str(error):
            advice = (
                "an optimizer was saved as an object: if you trust the file, save it without: "
                "torch.save({k: v for k, v in torch.load(FILE, weights_only=False).items() if "
                "'optimizer' not in k}, FILE)"
            )
        raise UserError(f"{path}: {error}; {advice}") from error
    except PickleRefused as error:
        raise UserError(f"{path}: not a whole PyTorch checkpoint ({error})") from error


def _state_of(path: Path, content: Any) -> dict[str, TorchTensor]:
    """The tensors by name in what a file holds."""
    if isinstance(content, Inert):
        content = dict(_attributes(content))
    while isinstance(content, Mapping) and (wrapper := _wrapper(content)):
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds no weights by name, but {_word_for(content)}")
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, TorchTensor | SparseTensor)
    }
    inside = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    if not state and inside:
        raise UserError(
            f"{path}: holds no weights by name, but {', '.join(inside[:4])}, and no "
            f"{' or '.join(_WRAPPERS)}: save the weights alone"
        )
    if any(isinstance(tensor, SparseTensor) for tensor in state.values()):
        raise UserError(f"{path}: holds sparse tensors; weights are dense")
    return {key: tensor for key, tensor in state.items() if isinstance(tensor, TorchTensor)}


def _attributes(module: Inert) -> Iterator[tuple[str, Any]]:
    """The attributes of a TorchScript module and of those in it, by dotted path."""
    waiting: list[tuple[str, Inert]] = [("", module)]
    count = 0
    while waiting:
        prefix, one = waiting.pop()
        for name, value in (one.state if isinstance(one.state, dict) else {}).items():
            count += 1
            if count > _MOST_NAMES:
                raise PickleRefused("its module has too many names")
            if isinstance(value, Inert):
                waiting.append((f"{prefix}{name}.", value))
            else:
                yield f"{prefix}{name}", value


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    return next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)


def _word_for(content: Any) -> str:
    return "one tensor" if isinstance(content, TorchTensor) else type(content).__name__


def _stored(path: Path, tensor: TorchTensor, places: Places, size: int) -> Stored:
    """A tensor whose place in the file is known to be there."""
    kind, span = tensor.kind, tensor.span()
    at, there = places.get(tensor.storage.key, (0, -1))
    start = tensor.start * kind.size
    if start + span * kind.size > there or math.prod(tensor.shape) * kind.size > size:
        raise PickleRefused("a tensor is larger than the numbers that are there")

    def read() -> np.ndarray:
        if kind.numpy is None:
            raise UserError(f"{path}: numbers of {kind.name} are not supported")
        try:
            flat = np.fromfile(path, kind.numpy, span, offset=at + start)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        if len(flat) < span:
            raise UserError(f"{path}: became shorter while it was read")
        strides = [step * kind.size for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides).copy()

    return Stored(tensor.shape, kind.name, read)
