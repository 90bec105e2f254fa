"""Tensors in a file, not yet read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import ml_dtypes
import numpy as np

# What a weight may be kept as, by safetensors' names. float32 parameters hold all but the last
# exactly.
FLOATS: dict[str, type] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
}
NUMBERS = FLOATS | {"I64": np.int64, "I32": np.int32}
"""Types that can be read: integers are no weights, but scales of LoRA."""


@dataclass(frozen=True)
class Stored:
    """A tensor whose shape and kind are known; `read` brings it into memory."""

    shape: tuple[int, ...]
    dtype: str
    """Name of the type in safetensors: `F32`, `BF16`, `I64`."""
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Stored]
"""The content of a weight file, by key."""

Handle = TypeVar("Handle")

_KEPT_MAPPED = 128 * 2**20


class Mapped(Generic[Handle]):
    """A memory-mapped file, opened again whenever 128 MB of it were read.

    The pages that a mapping has touched count as this process's memory until the mapping is
    closed: without this, loading would take twice the size of the parameters.
    """

    def __init__(self, open_file: Callable[[], Handle]):
        self._open, self._handle, self._touched = open_file, open_file(), 0

    @property
    def handle(self) -> Handle:
        return self._handle

    def take(self, count: int) -> Handle:
        """The handle, from which `count` bytes are about to be copied."""
        if self._touched and self._touched + count > _KEPT_MAPPED:
            del self._handle  # closed before it is opened anew
            self._handle, self._touched = self._open(), 0
        self._touched += count
        return self._handle


def changed(
    tensor: Stored, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]
) -> Stored:
    """The tensor as `change` makes it when it is read."""
    return Stored(shape, tensor.dtype, lambda: change(tensor.read()))


def flat_convolutions(tensors: Tensors, pattern: str) -> Tensors:
    """The same tensors, with 1x1 convolutions (out, in, 1, 1) whose keys match as linear maps
    (out, in)."""

    def flat(key: str, tensor: Stored) -> Stored:
        if tensor.shape[2:] != (1, 1) or not re.fullmatch(pattern, key):
            return tensor
        return changed(tensor, tensor.shape[:2], lambda x: x.reshape(x.shape[:2]))

    return {key: flat(key, tensor) for key, tensor in tensors.items()}
