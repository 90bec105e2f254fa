"""A weight format: an object that recognises a path and opens it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.weights.components import Weights


@dataclass(frozen=True)
class OpenOptions:
    """Facts about weights that a person gives because the files do not tell them."""

    ema: bool = False
    """Take the averaged U-Net of a single file (`model_ema.*`)."""
    prediction: Prediction | None = None
    """Quantity that the U-Net predicts."""
    tokenizer: Path | None = None
    """Folder of the tokenizer's files."""
    variant: str = ""
    """Which weight files of a folder to take: `fp16`, `non_ema`."""

    def refuse_all_but(self, *names: str, path: Path, why: str) -> None:
        """Raise `UserError` for an option that is given, not among `names` and of no use for the
        format."""
        for name, flag in _FLAGS.items():
            if name not in names and getattr(self, name) != getattr(NO_OPTIONS, name):
                raise UserError(f"{flag} is of no use for {path}, {why}: leave it out")


NO_OPTIONS = OpenOptions()

_FLAGS = {
    "ema": "--ema",
    "prediction": "--prediction_type",
    "tokenizer": "--tokenizer",
    "variant": "--variant",
}


@runtime_checkable
class WeightFormat(Protocol):
    """A form in which weights are kept. Adding one is a file beside this and its place in
    `open.FORMATS`."""

    name: str
    """Name of the form, in the message that lists what can be opened."""

    def matches(self, path: Path) -> bool:
        """Whether the file or folder has this form. Looks at names and keys, reads no weight."""
        ...

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open it. Errors: `UserError` naming the file and what is wrong with it."""
        ...
