"""Where weights may be written: at a free place, or over what `convert` wrote before."""

from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import VAE
from magicvideo_jax.weights.folders import CONFIG, INDEX
from magicvideo_jax.weights.formats.motion_files import is_motion_adapter
from magicvideo_jax.weights.formats.taesd_files import HALVES, taesd_file

_OURS = (INDEX, *map(taesd_file, HALVES), f"{VAE.folder}/{CONFIG}")
"""A folder that holds none of these files was not written by `convert`: it is never replaced."""


def check_target(target: Path, *, is_file: bool, overwrite: bool) -> None:
    """Check that `target`, a file or a folder, is free or may be replaced. Errors: `UserError`."""
    if not target.exists() and not target.is_symlink():
        return
    is_kind = target.is_file() if is_file else target.is_dir()
    if target.is_symlink() or not is_kind:
        kind = "file" if is_file else "folder"
        raise UserError(f"{target}: something other than a {kind} is there; give another TARGET")
    if not is_file:
        if not any(target.iterdir()):
            return
        if not any((target / name).exists() for name in _OURS) and not is_motion_adapter(target):
            raise UserError(f"{target}: the folder holds other things; give another TARGET")
    if not overwrite:
        raise UserError(
            f"{target}: is there already; give another TARGET, or --overwrite to replace it"
        )
