"""Hugging Face's download cache: a folder `models--OWNER--NAME` holds snapshots, and `refs/main`
names one."""

from pathlib import Path

from magicvideo_jax.core.errors import UserError


def snapshot_of(path: Path) -> Path:
    """The snapshot that a model's cache folder means; any other path unchanged.

    Errors: `UserError` where the snapshot that `refs/main` names is not there, or several are and
    none is named.
    """
    snapshots = path / "snapshots"
    if not path.name.startswith("models--") or not snapshots.is_dir():
        return path
    there = sorted(one for one in snapshots.iterdir() if one.is_dir())
    main = path / "refs" / "main"
    if main.is_file():
        named = snapshots / main.read_text(encoding="utf-8", errors="replace").strip()
        if named not in there:
            raise UserError(
                f"{path}: refs/main names {named.name}, which is not in snapshots/: download it again"
            )
        return named
    if len(there) != 1:
        raise UserError(f"{path}: give one of the folders in snapshots/ ({len(there)} are there)")
    return there[0]


def snapshot_folder(cache: Path, repository: str, commit: str) -> Path:
    """The folder in which the cache keeps the files of one commit of `OWNER/NAME`."""
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
