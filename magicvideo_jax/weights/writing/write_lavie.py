"""Writing a U-Net of LaVie as the dictionary that LaVie's own code loads strictly."""

from pathlib import Path

import numpy as np

from magicvideo_jax.weights.components import UNET, Weights
from magicvideo_jax.weights.formats.lavie_file import LaVieKind, lavie_kind
from magicvideo_jax.weights.tables.lavie_keys import frequency_keys, rotary_frequencies
from magicvideo_jax.weights.writing.write_folders import (
    ProgressFactory,
    names_of,
    no_progress,
    write_part_file,
)


class LaVieFileForm:
    """One of LaVie's three networks as a safetensors file in its own keys, the constants of its
    rotary embedding included."""

    words = "a U-Net of LaVie"

    def matches(self, weights: Weights) -> bool:
        """Whether the U-Net has the temporal layers of one of the three."""
        return _kind_of(weights) is not None

    def notes(self, weights: Weights) -> tuple[str, ...]:
        """A line about what the file does not hold."""
        del weights
        return ("LaVie's programs take a file of torch.save: save the dictionary under 'ema'",)

    def write(
        self,
        weights: Weights,
        file: Path,
        *,
        dtype: type = np.float32,
        progress: ProgressFactory = no_progress,
    ) -> None:
        """Write the file."""
        part, kind = weights.parts[UNET.folder], _kind_of(weights)
        assert kind is not None
        names = names_of(part, kind.table)
        keys = frequency_keys(name.key for name in names.values())
        constants = dict.fromkeys(keys, rotary_frequencies())
        write_part_file(part, file, names, constants, dtype=dtype, progress=progress)


def _kind_of(weights: Weights) -> LaVieKind | None:
    part = weights.parts.get(UNET.folder)
    return None if part is None else lavie_kind(part.config.temporal)
