"""Forms in which weights are written as one file, beside the folders of `write_folders.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import Weights
from magicvideo_jax.weights.writing.write_folders import ProgressFactory
from magicvideo_jax.weights.writing.write_lavie import LaVieFileForm
from magicvideo_jax.weights.writing.write_lfdm import FlowDiffusionFileForm, LatentFlowFileForm
from magicvideo_jax.weights.writing.write_motion import MotionFileForm


@runtime_checkable
class FileForm(Protocol):
    """A form of one file. Adding one is an object in `FILE_FORMS`."""

    words: str
    """Name of what the file holds, in messages."""

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


FILE_FORMS: Mapping[str, FileForm] = {
    "animatediff": MotionFileForm(),
    "lavie": LaVieFileForm(),
    "lfdm_diffusion": FlowDiffusionFileForm(),
    "lfdm_flow": LatentFlowFileForm(),
}
"""The forms by name (`convert --to`); asked in this order where no name is given."""


def file_form_of(weights: Weights, asked: str | None, *, target: Path) -> FileForm:
    """The form in which weights become the file `target`: the one asked for, or the first that
    matches.

    Errors: `UserError` where the weights cannot be written so.
    """
    forms = FILE_FORMS if asked is None else {asked: FILE_FORMS[asked]}
    for form in forms.values():
        if form.matches(weights):
            return form
    words = " or ".join(form.words for form in forms.values())
    raise UserError(
        f"TARGET {target}: a folder is written, not a file, of weights without {words}: give a name "
        f"without {target.suffix}"
    )
