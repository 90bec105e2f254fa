"""Sizes and checksums of a folder's files, written beside them and compared before they are read.

A byte that changes on a disk would otherwise be read as a number like any other: of the formats
that checkpoints are made of some have checksums of their own, and the one that holds the arrays
has none.
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
    """Write `CHECKSUMS` for all files below `folder` except `without` (paths relative to it)."""
    files = [path for path in _files(folder) if path not in without]
    with ThreadPoolExecutor(_THREADS) as threads:
        checksums = threads.map(lambda file: _checksum(folder / file), files)
        table = dict(zip(files, checksums, strict=True))
    with (folder / CHECKSUMS).open("w") as written:
        json.dump(table, written, indent=1)
        written.flush()
        os.fsync(written.fileno())


def find_corruption(folder: Path, *, under: str = "") -> str | None:
    """A message that names one file which differs from its checksum, or None if all are intact.

    `under` limits the comparison to files whose path begins with it.
    """
    try:
        table = json.loads((folder / CHECKSUMS).read_text())
        expected = {
            file: (int(size), int(crc))
            for file, (size, crc) in table.items()
            if file.startswith(under)
        }
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except OSError as error:
        return f"{CHECKSUMS} cannot be read ({error.strerror})"
    except (ValueError, TypeError, AttributeError):
        return f"{CHECKSUMS} is not what was written"

    def compare(file: str) -> str | None:
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
        return next((found for found in threads.map(compare, expected) if found is not None), None)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _checksum(file: Path) -> tuple[int, int]:
    """Size in bytes, and CRC-32, which detects any burst of up to 32 changed bits."""
    size = crc = 0
    with file.open("rb") as reading:
        while block := reading.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc
