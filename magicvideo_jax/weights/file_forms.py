"""Forms in which weights are written as one file, beside the folders of `write_folders.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import Weights
from magicvideo_jax.weights.write_folders import ProgressFactory
from magicvideo_jax.weights.write_lavie import LaVieFileForm
from magicvideo_jax.weights.write_motion import MotionFileForm


@runtime_checkable
class FileForm(Protocol):
    """A form of one file. Adding one is an object in `FILE_FORMS`."""

    name: str
    """Name of the form, in messages."""

    def matches(self, weights: Weights) -> bool:
        """Whether weights can be written so. Reads no weight."""
        ...

    def notes(self, weights: Weights) -> tuple[str, ...]:
        """Lines about what the file will not say."""
        ...

    def write(
        self, weights: Weights, file: Path, *, dtype: type, progress: ProgressFactory
    ) -> None:
        """Write the file. Errors: `UserError`."""
        ...


FILE_FORMS: Sequence[FileForm] = (MotionFileForm(), LaVieFileForm())
"""Asked in this order."""


def file_form_of(weights: Weights, target: Path) -> FileForm:
    """The form in which weights become one file. Errors: `UserError` where there is none."""
    for form in FILE_FORMS:
        if form.matches(weights):
            return form
    names = ", ".join(form.name for form in FILE_FORMS)
    raise UserError(
        f"TARGET {target}: these weights become a folder, not a file ({names}): give a name without "
        f"{target.suffix}"
    )


def check_file_target(target: Path, *, overwrite: bool) -> None:
    """`UserError` where something is at `target` that may not be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_file():
        raise UserError(f"{target}: something other than a file is there; give another TARGET")
    if not overwrite:
        raise UserError(
            f"{target}: is there already; give another TARGET, or --overwrite to replace it"
        )
