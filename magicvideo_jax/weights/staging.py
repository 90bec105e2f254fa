"""A folder appears whole or not at all: it is written beside its place and renamed into it."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magicvideo_jax.core.errors import UserError

# A folder that holds none of these was not written by this project: it is never replaced.
_OURS = ("model_index.json", "taesd_encoder.safetensors", "taesd_decoder.safetensors")


def check_target(target: Path, *, overwrite: bool) -> None:
    """`UserError` if something is at `target` that may not be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise UserError(f"{target}: something other than a folder is there; give another TARGET")
    if not any(target.iterdir()):
        return
    if not any((target / name).exists() for name in _OURS):
        raise UserError(f"{target}: the folder holds other things; give another TARGET")
    if not overwrite:
        raise UserError(
            f"{target}: is there already; give another TARGET, or --overwrite to replace it"
        )


@contextmanager
def staged(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write into, which becomes `target` when the block ends well and vanishes when it does not."""
    check_target(target, overwrite=overwrite)
    mark = secrets.token_hex(4)
    partial, old = (target.parent / f".{target.name}.{word}-{mark}" for word in ("partial", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error
    try:
        try:
            yield partial
            _replace(partial, target, old)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path, old: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
