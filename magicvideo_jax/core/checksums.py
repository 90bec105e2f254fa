"""A folder's files as they were written: their sizes and checksums in one more file, compared before they are read.

A byte that changes on a disk is else read as a number like any other: of the formats that checkpoints are made of some
have checksums of their own, and the one that holds the arrays has none.
"""

import json
import os
import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKSUMS = "seal.json"

_THREADS = 8
_BLOCK = 1 << 22
"""Bytes read at a time."""


def write_checksums(folder: Path, *, without: Collection[str] = ()) -> None:
    """Writes `CHECKSUMS`, of all files below `folder` but those named (relative to it)."""
    files = [path for path in _files(folder) if path not in without]
    with ThreadPoolExecutor(_THREADS) as threads:
        marks = dict(
            zip(files, threads.map(lambda file: _checksum(folder / file), files), strict=True)
        )
    with (folder / CHECKSUMS).open("w") as written:
        json.dump(marks, written, indent=1)
        written.flush()
        os.fsync(written.fileno())


def find_corruption(folder: Path, *, under: str = "") -> str | None:
    """What is not as it was sealed, in words that name the file; or none. `under` asks for the files whose path begins
    so."""
    try:
        marks = json.loads((folder / CHECKSUMS).read_text())
        expected = {
            file: (int(size), int(crc))
            for file, (size, crc) in marks.items()
            if file.startswith(under)
        }
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{CHECKSUMS} is not what was written"

    def compared(file: str) -> str | None:
        try:
            size, crc = _checksum(folder / file)
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        if size != expected[file][0]:
            return f"{file} has {size} bytes of {expected[file][0]}"
        return None if crc == expected[file][1] else f"{file} is not what was written"

    with ThreadPoolExecutor(_THREADS) as threads:
        return next((what for what in threads.map(compared, expected) if what is not None), None)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _checksum(file: Path) -> tuple[int, int]:
    """Size in bytes, and CRC-32, which tells any change of up to 32 bits that stand together."""
    size = crc = 0
    with file.open("rb") as reading:
        while block := reading.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc
