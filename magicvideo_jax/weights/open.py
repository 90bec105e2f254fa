"""The one way in which weights are opened: `open_weights(path)` asks each format whether the path
is its own."""

from collections.abc import Sequence
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import Weights
from magicvideo_jax.weights.fitting import check_parts
from magicvideo_jax.weights.formats.diffusers_folder import DiffusersFolder
from magicvideo_jax.weights.formats.jax_folder import JaxFolder
from magicvideo_jax.weights.formats.lavie_file import LaVieFile
from magicvideo_jax.weights.formats.lfdm_file import LFDMFile
from magicvideo_jax.weights.formats.lone_folder import LoneFolder
from magicvideo_jax.weights.formats.lone_vae_file import LoneVAEFile
from magicvideo_jax.weights.formats.motion_files import MotionAdapterFolder, MotionFile
from magicvideo_jax.weights.formats.single_file import SingleFile
from magicvideo_jax.weights.formats.taesd_files import TAESDFiles
from magicvideo_jax.weights.formats.vae_folder import VAEFolder
from magicvideo_jax.weights.formats.weight_format import NO_OPTIONS, OpenOptions, WeightFormat
from magicvideo_jax.weights.locate import locate
from magicvideo_jax.weights.lora.lora_files import file_in_folder
from magicvideo_jax.weights.tables.known_extras import name_of_other_model
from magicvideo_jax.weights.tensor_files import has_tensors, kind_of, open_tensors

FORMATS: list[WeightFormat] = [
    TAESDFiles(),
    LFDMFile(),
    JaxFolder(),
    DiffusersFolder(),
    VAEFolder(),
    MotionAdapterFolder(),
    LoneFolder(),
    MotionFile(),
    SingleFile(),
    LaVieFile(),
    LoneVAEFile(),
]
"""Asked in this order each time that weights are opened."""


def open_weights(
    path: str | Path,
    *,
    argument: str = "path",
    options: OpenOptions = NO_OPTIONS,
    also: Sequence[WeightFormat] = (),
) -> Weights:
    """Open weights in any known form: configurations are read, parameters wait for
    `weights.parts[..].load`.

    `path` is a file or folder, or a name that `locate` knows. `also` are formats of a floor above,
    asked first. Errors: `UserError` naming `argument`, the path or a file in it, for weights that
    are not whole, whose keys or shapes do not fit, or whose parts do not belong together. No
    parameter is read.
    """
    place = locate(path, argument=argument, variant=options.variant)
    for one in (*also, *FORMATS):
        if one.matches(place):
            weights = one.open(place, options)
            check_parts(weights, str(place))
            for part in weights.parts.values():
                part.check()
            return weights
    raise UserError(_unknown(place, (*also, *FORMATS)))


def _unknown(place: Path, formats: Sequence[WeightFormat]) -> str:
    """Say what a path is that no format knows."""
    file = file_in_folder(place) if place.is_dir() else place
    keys = sorted(open_tensors(file)) if file is not None and has_tensors(file) else []
    if other := name_of_other_model(keys):
        return f"{place}: holds {other}; supported: Stable Diffusion 1.x and 2.x, and their parts"
    if file == place and has_tensors(place):
        config = place.parent / "config.json"
        advice = f"; give its folder, {place.parent}" if config.is_file() else ""
        return (
            f"{place}: not a Stable Diffusion checkpoint: no keys model.diffusion_model.*, but "
            f"{', '.join(keys[:3]) or 'none at all'}{advice}"
        )
    if place.is_file():
        return f"{place}: {kind_of(place).value}"
    return (
        f"{place}: no model_index.json or config.json in it, so no weights; give "
        f"{', or '.join(one.name for one in formats)}"
    )
