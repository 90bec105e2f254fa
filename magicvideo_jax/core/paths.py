"""Paths that people give on command lines and in configs."""

import os
import re
from pathlib import Path

from magicvideo_jax.core.errors import UserError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def local_path(text: str | Path, *, argument: str) -> Path:
    """A path on this machine: absolute, with `~` expanded and `.` and `..` resolved.

    Errors: `UserError` naming `argument` for an empty path, for a URL such as gs://bucket/run (mount the bucket
    instead), for an unknown user in `~user`, for a NUL character, and for bytes that are not UTF-8.
    """
    given = str(text)
    if not given.strip():
        raise UserError(f"{argument} is empty: give a path")
    if "\0" in given:
        raise UserError(f"{argument}: a path holds no NUL character")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise UserError(f"{argument}={given}: the path is not UTF-8: rename it") from None
    if _SCHEME.match(given):
        raise UserError(
            f"{argument}={given}: only local paths are supported; mount the bucket (gcsfuse) and give its folder"
        )
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"{argument}={given}: there is no such user or no home folder") from None
    # `link/..` is not the folder of the link: only the file system knows what it is.
    return path.resolve() if ".." in path.parts else Path(os.path.normpath(path.absolute()))
