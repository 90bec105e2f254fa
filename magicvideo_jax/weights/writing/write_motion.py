"""Writing motion modules alone: the folder of a MotionAdapter of diffusers, or a file in
AnimateDiff's own keys."""

from pathlib import Path

import numpy as np

from magicvideo_jax.models.lone_motion import MotionConfig
from magicvideo_jax.models.temporal import with_motion_norm
from magicvideo_jax.weights.components import ComponentWeights, Weights
from magicvideo_jax.weights.folders import CONFIG
from magicvideo_jax.weights.motion_weights import has_motion, motion_alone, positions_of
from magicvideo_jax.weights.tables.motion_keys import DIFFUSERS_KEYS, ORIGINAL_KEYS, MotionKeys
from magicvideo_jax.weights.tensor_files import SAFETENSORS
from magicvideo_jax.weights.writing.write_folders import (
    ProgressFactory,
    names_of,
    no_progress,
    write_config,
    write_part_file,
)


def write_motion_adapter(
    part: ComponentWeights[MotionConfig],
    folder: Path,
    *,
    dtype: type = np.float32,
    progress: ProgressFactory = no_progress,
) -> None:
    """Write a folder that diffusers' `MotionAdapter.from_pretrained` loads."""
    file = folder / f"{part.kind.stem}{SAFETENSORS}"
    _write(part, file, DIFFUSERS_KEYS, dtype=dtype, progress=progress)
    write_config(folder / CONFIG, part.json)


class MotionFileForm:
    """The motion modules of weights as a safetensors file in AnimateDiff's own keys, positions
    included."""

    words = "motion modules"

    def matches(self, weights: Weights) -> bool:
        """Whether weights have motion modules, alone or in a U-Net."""
        return any(has_motion(part) for part in weights.parts.values())

    def notes(self, weights: Weights) -> tuple[str, ...]:
        """A line about another norm convention."""
        return norm_warning(motion_alone(weights, name="").config, ORIGINAL_KEYS)

    def write(
        self,
        weights: Weights,
        file: Path,
        *,
        dtype: type = np.float32,
        progress: ProgressFactory = no_progress,
    ) -> None:
        """Write the file."""
        part = motion_alone(weights, name=str(file))
        _write(part, file, ORIGINAL_KEYS, dtype=dtype, progress=progress)


def norm_warning(config: MotionConfig, keys: MotionKeys) -> tuple[str, ...]:
    """A line, if the program that reads these keys computes by another norm convention than the
    modules were trained with."""
    if with_motion_norm(config.temporal, keys.norm) == config.temporal:
        return ()
    return (
        f"programs that read {keys.words} norm over other frames than these motion modules were used "
        "with here (config.motion_norm), so their clips differ",
    )


def _write(
    part: ComponentWeights[MotionConfig],
    file: Path,
    keys: MotionKeys,
    *,
    dtype: type,
    progress: ProgressFactory,
) -> None:
    names = {
        path: name._replace(key=keys.key_of(name.key))
        for path, name in names_of(part, part.kind.table).items()
    }
    write_part_file(part, file, names, positions_of(part, keys), dtype=dtype, progress=progress)
