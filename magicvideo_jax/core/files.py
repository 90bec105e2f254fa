"""Files and folders that appear whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A free name beside `path`. What is written there (a file or a folder) takes the place of `path` at the end, or is
    removed where anything failed.

    Errors: `UserError` naming path and cause for every `OSError`, which PyAV's errors about files are, too.
    """
    path = path.absolute()
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR)
            )  # mkdir would say that it exists
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if os.path.isdir(
            aside
        ):  # unlike Path.is_dir, False where the folder may not even be looked into
            shutil.rmtree(aside, ignore_errors=True)
        elif os.path.lexists(aside):
            aside.unlink()


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


def write_json(path: Path, content: Any) -> None:
    """JSON for people: indented, whole or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")
