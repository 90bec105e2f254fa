"""TensorFlow's checkpoints of variables (`model.ckpt.index` with `model.ckpt.data-00000-of-00001`), read without
TensorFlow.

The index is a sorted table in LevelDB's format: blocks of entries, each key with what it shares with the one before
left out, an index of the blocks, and a footer. An entry's value is a protocol buffer with the type, shape, place and
CRC-32C of a tensor, whose numbers lie in the data file. All checksums are compared.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from magicvideo_jax.core.crc32c import crc32c
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensors import Stored, Tensors

INDEX_SUFFIX = ".index"
_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5
_LARGEST_INDEX = 1 << 26
"""Bytes of the largest index that is read: of a million tensors it is smaller."""

# Types by their number in TensorFlow: safetensors' name of it, and NumPy's.
_TYPES: dict[int, tuple[str, Any]] = {
    1: ("F32", "<f4"),
    2: ("F64", "<f8"),
    3: ("I32", "<i4"),
    9: ("I64", "<i8"),
    14: ("BF16", ml_dtypes.bfloat16),
    19: ("F16", "<f2"),
}


def find_bundle(path: Path) -> Path | None:
    """The index of the bundle that a path means: the index, its data file, the name before either, or a folder with
    one; None where there is none."""
    if path.is_dir():
        found = sorted([*path.glob(f"*{INDEX_SUFFIX}"), *path.glob(f"variables/*{INDEX_SUFFIX}")])
        return found[0] if len(found) == 1 else None
    name = path.name.partition(".data-")[0].removesuffix(INDEX_SUFFIX)
    index = path.with_name(f"{name}{INDEX_SUFFIX}")
    return index if index.is_file() else None


def open_bundle(index: Path) -> Tensors:
    """The variables of a bundle by name. Errors: `UserError` if one of its files is missing or not whole; strings
    and other types that are no numbers are left out."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError
        table = index.read_bytes()
        entries = dict(_table(table))
        shards = _fields(entries.pop(b"", b"")).get(1, 1)
        found = {
            key.decode(): _stored(index, _fields(value), shards) for key, value in entries.items()
        }
    except OSError as error:
        raise UserError(f"{index}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, struct.error, OverflowError) as error:
        raise UserError(f"{index}: not a whole index of TensorFlow's variables") from error
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("no table")
    _, _, at, size = _varints(footer, 4)
    for _, handle in _block(content, at, size):
        yield from _block(content, *_varints(handle, 2))


def _block(content: bytes, at: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    block = content[at : at + size]
    trailer = content[at + size : at + size + _TRAILER]
    if len(trailer) < _TRAILER or crc32c(block + trailer[:1]) != _unmasked(trailer[1:]):
        raise ValueError("a block is not what was written")
    if trailer[0]:
        raise ValueError("compressed")
    (restarts,) = struct.unpack("<I", block[-4:])
    place, end, key = 0, len(block) - 4 * (restarts + 1), b""
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + fresh]
        yield key, block[place + fresh : place + fresh + length]
        place += fresh + length


def _varints(content: bytes, count: int) -> list[int]:
    numbers, place = list[int](), 0
    for _ in range(count):
        number, place = _varint(content, place)
        numbers.append(number)
    return numbers


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """The number of seven bits a byte that begins at a place, and the place behind it."""
    number = shift = 0
    while shift < 64:
        byte = content[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    raise ValueError("a number of more than 64 bits")


def _fields(message: bytes) -> dict[int, Any]:
    """The last value of each field of a protocol buffer; of the repeated ones all, see `_shape`."""
    return dict(_each_field(message))


def _each_field(message: bytes) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                value, place = _varint(message, place)
            case 2:
                size, place = _varint(message, place)
                value, place = message[place : place + size], place + size
            case 5:
                value, place = message[place : place + 4], place + 4
            case 1:
                value, place = message[place : place + 8], place + 8
            case _:
                raise ValueError("no field")
        yield tag >> 3, value


def _shape(message: bytes) -> tuple[int, ...]:
    sizes = [
        _fields(dimension).get(1, 0) for field, dimension in _each_field(message) if field == 2
    ]
    return tuple(sizes)


def _stored(index: Path, entry: dict[int, Any], shards: int) -> Stored | None:
    """The tensor of an entry: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices."""
    if entry.get(1, 0) not in _TYPES:
        return None
    name, numpy = _TYPES[entry[1]]
    dtype, shape = np.dtype(numpy), _shape(entry.get(2, b""))
    count, shard = math.prod(shape), entry.get(3, 0)
    if 7 in entry or count * dtype.itemsize != entry.get(5, 0):
        raise ValueError("a variable in slices, or of another size")
    data = index.with_name(
        f"{index.name.removesuffix(INDEX_SUFFIX)}.data-{shard:05}-of-{shards:05}"
    )
    if data.stat().st_size < entry.get(4, 0) + entry.get(5, 0):
        raise UserError(f"{data}: cut off: shorter than {index.name} says")

    def read() -> np.ndarray:
        try:
            array = np.fromfile(data, dtype, count, offset=entry.get(4, 0))
        except OSError as error:
            raise UserError(f"{data}: {error.strerror or error}") from error
        if len(array) < count or crc32c(array.tobytes()) != _unmasked(entry[6]):
            raise UserError(f"{data}: damaged: its numbers differ from their checksum")
        return array.reshape(shape)

    return Stored(shape, name, read)


def _unmasked(checksum: bytes) -> int:
    """The checksum that LevelDB rotates and shifts, so that a checksum of checksums means something."""
    (masked,) = struct.unpack("<I", checksum)
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
