"""Files and folders that appear complete or not at all."""

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError


@contextmanager
def atomic_write(path: Path, *, replaces_folder: bool = False) -> Iterator[Path]:
    """A free name beside `path`: the file or folder written there takes the place of `path` when
    the block ends well, and is removed when it does not.

    A folder that is at `path` is replaced, with all that it holds, only if `replaces_folder`.
    Errors: `UserError` names path and cause of every `OSError`, which PyAV's errors about files
    are, too.
    """
    path = path.absolute()
    # A random name: in containers every process has the same id.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        if path.parent.exists() and not path.parent.is_dir():
            # mkdir would say that it exists
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if replaces_folder and path.is_dir():
            _replace_folder(path, aside)
        else:
            aside.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        _remove(aside)


def _replace_folder(path: Path, new: Path) -> None:
    """Put a folder in the place of another: no call of the system does it in one step."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(8)}.old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if os.path.isdir(
        path
    ):  # unlike Path.is_dir, False where the folder may not even be looked into
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raise the `UserError` of `atomic_write` before long work, for a place that refuses a file.

    Asks for a folder where files can be made, and whether what is there could be replaced.
    """
    path = path.absolute()
    try:
        parent = next(place for place in path.parents if os.path.lexists(place))
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_dir() and folder:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def check_room(sizes: Mapping[Path, int]) -> None:
    """Check that files of so many bytes have room where they will be, before long work.

    Errors: `UserError` naming a file for which, with those before it on its disk, there is none.
    """
    needed: dict[int, int] = {}
    for path, size in sizes.items():
        place = next(place for place in path.absolute().parents if place.is_dir())
        disk, free = os.stat(place).st_dev, shutil.disk_usage(place).free
        needed[disk] = needed.get(disk, 0) + size
        if needed[disk] > free:
            raise UserError(
                f"{path}: no room for the result: about {needed[disk] / 2**20:,.1f} MiB are needed "
                f"and {free / 2**20:,.1f} MiB are free: give another place, or free some"
            )


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, complete or not at all. NaN and infinities, which JSON does not have,
    become null.
    """
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n")


def finite_or_null(content: Any) -> Any:
    """Dicts, lists and numbers with None in the place of every number that is not finite."""
    if isinstance(content, dict):
        return {name: finite_or_null(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
