"""TensorFlow's bundles of variables, as TensorFlow writes them: an index in blocks, and numbers."""

import struct
from pathlib import Path

import numpy as np

from magicvideo_jax.core.crc32c import crc32c

NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}
BLOCK = 40
"""Entries of a block."""


def varint(number: int) -> bytes:
    content = b""
    while number > 127:
        content, number = content + bytes([number & 127 | 128]), number >> 7
    return content + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def masked(checksum: int) -> bytes:
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    content, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(last), len(key)) and last[shared] == key[shared]:
            shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content, last = content + key[shared:] + value, key
    return content + struct.pack("<II", 0, 1)


def write_bundle(stem: Path, variables: dict[str, np.ndarray]) -> Path:
    """Write `STEM.index` and its data file. The index is returned."""
    data, entries = b"", [(b"", field(1, 1))]
    for name, array in sorted(variables.items()):
        numbers = array.tobytes()
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, NUMBERS[array.dtype.name]) + field(2, shape)
        entry += field(4, len(data)) + field(5, len(numbers))
        entry += varint(6 << 3 | 5) + masked(crc32c(numbers))
        entries.append((name.encode(), entry))
        data += numbers
    table, handles = b"", []

    def add(content: bytes) -> bytes:
        nonlocal table
        handle = varint(len(table)) + varint(len(content))
        table += content + b"\0" + masked(crc32c(content + b"\0"))
        return handle

    for start in range(0, len(entries), BLOCK):
        some = entries[start : start + BLOCK]
        handles.append((some[-1][0], add(block(some))))
    footer = add(block([])) + add(block(handles))
    footer = footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    stem.with_name(f"{stem.name}.data-00000-of-00001").write_bytes(data)
    index = stem.with_name(f"{stem.name}.index")
    index.write_bytes(table + footer)
    return index
