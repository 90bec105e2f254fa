"""Which of a run's checkpoints is the newest whole one. Those that are damaged are named and set aside; what a save
left that did not end is named and removed."""

import shutil
from pathlib import Path

from magicvideo_jax.core.checksums import find_corruption
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.progress import say

UNSEALED = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Orbax writes these as a checkpoint gets its name, after the seal. Nothing is read from them."""

_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = "damaged-"


def newest_valid_step(folder: Path, *, sets_aside: bool, under: str = "") -> int | None:
    """The step of the newest checkpoint in `folder` whose files are as they were written (those whose path begins with
    `under`); none where there was none yet. Older ones are not looked at.

    Errors: `UserError` where there are checkpoints and all of them are damaged, and where one cannot be set aside.
    """
    steps = sorted(
        (int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True
    )
    for step in steps:
        what = find_corruption(folder / str(step), under=under)
        if what is None:
            return step
        where = _set_aside(folder / str(step)) if sets_aside else "passed over"
        say(f"checkpoint {folder / str(step)} is damaged: {what}; {where}")
    if steps or list(folder.glob(f"{_DAMAGED}*")):
        raise UserError(
            f"{folder}: every checkpoint here is damaged, and none is left to go on from; bring back a copy of one, or "
            "move this folder away to begin again at step 0"
        )
    return None


def clear_unfinished(folder: Path) -> None:
    """Removes what is left of saves that were killed. The run must be the only one there."""
    for path in folder.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
        say(f"{path}: a save that did not end; removed")


def _set_aside(path: Path) -> str:
    for name in (f"{_DAMAGED}{path.name}", *(f"{_DAMAGED}{path.name}-{i}" for i in range(2, 1000))):
        target = path.with_name(name)
        if not target.exists():
            try:
                path.rename(target)
            except OSError as error:
                raise UserError(
                    f"{path} is damaged and cannot be renamed: {error.strerror or error}"
                ) from None
            return f"it is now {target.name}"
    raise UserError(
        f"{path} is damaged, like many before it: look at the disk, and remove the {_DAMAGED}* beside it"
    )
