"""The forms of PyTorch's files, as an object and the places of its storages.

Since 1.6 a file is a zip archive with a pickle `data.pkl`, which describes tensors, and a member for the numbers of
each storage. A TorchScript archive is the same with code beside it, and its pickle describes a module. Before 1.6, a
file was five pickles in a row and then the storages.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

from magicvideo_jax.weights.torch_files.pickle_machine import PickleRefused, run_pickle
from magicvideo_jax.weights.torch_files.torch_names import (
    TorchStorage,
    torch_meaning,
    torch_storage,
)

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_BROKEN = (
    *(zipfile.BadZipFile, struct.error, EOFError),
    *(ValueError, LookupError, OverflowError, NotImplementedError),
)
"""What Python's reader of archives raises for those that are none."""

Places = Mapping[str, tuple[int, int]]
"""Where the numbers of each storage begin in a file, and their size in bytes."""


def read_archive(file: io.BufferedReader) -> tuple[Any, Places]:
    """The object of a zip archive, and its storages."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except _BROKEN as error:
        raise PickleRefused("its archive is broken") from error
    pickles = [one.filename for one in members if one.filename.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise PickleRefused("its archive has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    needed = (pickles[0], f"{folder}byteorder", f"{folder}data/")  # TorchScript's code is not
    places = {
        one.filename: _place_of(file, one)
        for one in members
        if one.filename.startswith(needed) and not one.is_dir()
    }

    def read(name: str) -> bytes:
        start, size = places[name]
        file.seek(start)
        return file.read(size)

    if (order := f"{folder}byteorder") in places and read(order) != b"little":
        raise PickleRefused("its numbers are not little-endian")
    content = run_pickle(io.BytesIO(read(pickles[0])), torch_meaning, torch_storage)
    start = f"{folder}data/"
    return content, {
        name.removeprefix(start): at for name, at in places.items() if name.startswith(start)
    }


def _place_of(file: io.BufferedReader, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member begin, and their number."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise PickleRefused(f"{member.filename!r} in its archive is compressed or encrypted")
    file.seek(max(member.header_offset, 0))
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise PickleRefused("its archive is broken (a member is not where it should be)")
    names = sum(struct.unpack("<HH", header[26:30]))
    start, end = member.header_offset + 30 + names, file.seek(0, io.SEEK_END)
    if start + member.file_size > end:
        raise PickleRefused("its archive is cut off")
    return start, member.file_size


def read_legacy(file: io.BufferedReader) -> tuple[Any, Places]:
    """The object of a file from before version 1.6, and its storages."""
    storages: dict[str, TorchStorage] = {}

    def storage(identifier: Any) -> TorchStorage:
        found = torch_storage(identifier)
        return storages.setdefault(found.key, found)._replace(start=found.start)

    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise PickleRefused("it is empty") from error
    with mapped:
        magic, protocol, _ = (run_pickle(mapped, torch_meaning, storage) for _ in range(3))
        if magic != _MAGIC or protocol != _PROTOCOL:
            raise PickleRefused("it is a pickle, but none of torch.save")
        content, keys = (run_pickle(mapped, torch_meaning, storage) for _ in range(2))
        at, end = mapped.tell(), len(mapped)
    places = {}
    for key in keys if isinstance(keys, list) else ():
        file.seek(at)
        head = file.read(8)
        if not isinstance(key, str) or key not in storages or len(head) < 8:
            raise PickleRefused("its list of storages is broken")
        size = int.from_bytes(head, "little") * storages[key].kind.size
        places[key] = at + 8, size
        at += 8 + size
        if at > end:
            raise PickleRefused("it is cut off")
    return content, places
