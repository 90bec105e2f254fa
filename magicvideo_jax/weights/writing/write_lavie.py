"""Writing a U-Net of LaVie as the dictionary that LaVie's own code loads strictly."""

from pathlib import Path

import numpy as np

from magicvideo_jax.core.tree import flatten, size_in_bytes
from magicvideo_jax.weights.components import UNET, Weights
from magicvideo_jax.weights.formats.lavie_file import LaVieKind, lavie_kind
from magicvideo_jax.weights.tables.lavie_keys import frequency_keys, rotary_frequencies
from magicvideo_jax.weights.tables.naming import name_of
from magicvideo_jax.weights.writing.write_folders import (
    ProgressFactory,
    load_with_progress,
    no_progress,
    write_named,
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
        params = load_with_progress(part, progress)
        flat = flatten(params)
        names = {path: name_of(kind.table, path, x.ndim) for path, x in flat.items()}
        keys = frequency_keys(name.key for name in names.values())
        constants = dict.fromkeys(keys, rotary_frequencies())
        with progress(f"{part.kind.folder}: writing", size_in_bytes(params)) as tick:
            write_named(file, names, flat, constants, dtype=dtype, tick=tick)


def _kind_of(weights: Weights) -> LaVieKind | None:
    part = weights.parts.get(UNET.folder)
    return None if part is None else lavie_kind(part.config.temporal)
