"""The newest valid checkpoint of a run.

Corrupt checkpoints are renamed and unfinished saves removed; both are logged.
"""

import shutil
from pathlib import Path

from magicvideo_jax.core.checksums import find_corruption
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.progress import say

WITHOUT_CHECKSUM = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files that Orbax writes after the checksums. Nothing is read from them."""

_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = "damaged-"


def newest_valid_step(folder: Path, *, sets_aside: bool, under: str = "") -> int | None:
    """Step of the newest checkpoint in `folder` whose files are intact; None if there is none yet.

    `under` limits the comparison to files whose path begins with it. Older ones than the result
    are not read; corrupt ones are renamed if `sets_aside`. Errors: `UserError` where every
    checkpoint is damaged, where one cannot be renamed, and where the folder cannot be read.
    """
    names = _names(folder)
    for step in sorted((int(name) for name in names if name.isdecimal()), reverse=True):
        found = find_corruption(folder / str(step), under=under)
        if found is None:
            return step
        result = _set_aside(folder / str(step)) if sets_aside else "passed over"
        say(f"checkpoint {folder / str(step)} is damaged: {found}; {result}")
    if any(name.isdecimal() or name.startswith(_DAMAGED) for name in names):
        raise UserError(
            f"{folder}: every checkpoint here is damaged, and none is left to go on from; bring back a copy of one, or "
            "move this folder away to begin again at step 0"
        )
    return None


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from None


def clear_unfinished(folder: Path) -> None:
    """Remove what saves that were killed left behind. No other run may be writing there."""
    for path in folder.glob(f"*{_UNFINISHED}*"):
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise UserError(
                f"{path}: a save that did not end cannot be removed: {error.strerror or error}"
            ) from None
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
