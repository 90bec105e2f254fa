"""Motion modules of AnimateDiff alone: one file, or the folder of a MotionAdapter of diffusers."""

from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import MOTION, Weights
from magicvideo_jax.weights.folders import CONFIG, INDEX, assumed_noise, open_torch_part
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.motion_json import MOTION_ADAPTER
from magicvideo_jax.weights.motion_weights import check_positions, motion_of_tensors
from magicvideo_jax.weights.tables.motion_keys import DIFFUSERS_KEYS, MODULES
from magicvideo_jax.weights.tensor_files import (
    find_weights,
    has_tensors,
    open_tensors,
    read_json,
)


class MotionFile:
    """One `.ckpt` or `.safetensors` in AnimateDiff's own keys (v1, v2, v3, or of one's own
    training), or in those of diffusers. The keys tell the version, and the norm convention
    (`models/temporal.py`) and the noise schedule of the program that they belong to."""

    name = "a motion module file of AnimateDiff"

    def matches(self, path: Path) -> bool:
        """Whether there are keys `motion_modules.*`."""
        return has_tensors(path) and any(MODULES in key for key in open_tensors(path))

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the motion modules, and no other network of the file."""
        options.refuse_all_but(path=path, why="a motion module file")
        part, keys, notes = motion_of_tensors(open_tensors(path), where=str(path))
        return Weights({MOTION.folder: part}, notes=notes, **assumed_noise(keys.noise))


class MotionAdapterFolder:
    """config.json and weights of diffusers' MotionAdapter, in its norm convention and with the
    schedule that its documentation gives."""

    name = "a folder of a MotionAdapter"

    def matches(self, path: Path) -> bool:
        """Whether `config.json` names that class."""
        return is_motion_adapter(path)

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the motion modules."""
        options.refuse_all_but("variant", path=path, why="a MotionAdapter")
        file = find_weights(path, MOTION.stem, MOTION.older, variant=options.variant)
        frames = check_positions(open_tensors(file), where=str(file))
        part, notes = open_torch_part(MOTION, path, variant=options.variant)
        said = part.config.temporal.frames
        if frames not in (None, said):
            raise UserError(
                f"{file}: positions for {frames} frames, and motion_max_seq_length in {CONFIG} is {said}"
            )
        noise = assumed_noise(DIFFUSERS_KEYS.noise)
        return Weights({MOTION.folder: part}, notes=notes, **noise)


def is_motion_adapter(path: Path) -> bool:
    """Whether a path is the folder of a MotionAdapter."""
    if (path / INDEX).exists() or not (path / CONFIG).is_file():
        return False
    return read_json(path / CONFIG).get("_class_name") == MOTION_ADAPTER
