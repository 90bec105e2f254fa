"""TAESD's files: `taesd_encoder.safetensors` and `taesd_decoder.safetensors`, either of which may
be absent; or the folder that `convert` made of them. The temporal layers of a VideoVAE lie beside
them in `vae_temporal/`."""

from dataclasses import replace
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.weights.components import VAE, ComponentSpec, ComponentWeights, Weights
from magicvideo_jax.weights.folders import INDEX, PARAMS, index_of, temporal_of
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.jax_params import CheckpointParams
from magicvideo_jax.weights.param_sources import ParamSource, TensorParams
from magicvideo_jax.weights.tables.taesd_keys import TAESD_TABLE
from magicvideo_jax.weights.tensor_files import SAFETENSORS, open_tensors

HALVES = ("encoder", "decoder")
TAESD_CLASS = "TAESD"
"""The mark of our folders of it in their `model_index.json`."""

TAESD: ComponentSpec[VAEConfig] = replace(
    VAE, words="TAESD", table=TAESD_TABLE, write=lambda _: {}, extras=()
)
"""TAESD in a VAE's place; it has no config.json of its own."""


class TAESDFiles:
    """The tiny auto-encoder of Stable Diffusion's latents (madebyollin/taesd), whole or half."""

    name = "TAESD's files"

    def matches(self, path: Path) -> bool:
        """Whether a file, or one in a folder, bears a name of TAESD's, or `convert` made the
        folder."""
        return bool(_files(path)) or _is_ours(path)

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open it as a VAE."""
        options.refuse_all_but(path=path, why="TAESD")
        if _is_ours(path):
            halves = _stored_halves(path)
            return _weights(path, halves, CheckpointParams(path / PARAMS), is_ours=True)
        files = _files(path)
        tensors = {
            f"{half}.{key}": tensor
            for half, file in files.items()
            for key, tensor in open_tensors(file).items()
        }
        added = path / TAESD.temporal_folder / f"{TAESD.stem}{SAFETENSORS}"
        if "decoder" in files and added.is_file():
            tensors |= open_tensors(added)
        source = TensorParams(TAESD.table, tensors, str(path))
        return _weights(path, tuple(files), source, is_ours=False)


def taesd_file(half: str) -> str:
    """Name of the file of a half."""
    return f"taesd_{half}{SAFETENSORS}"


def _weights(path: Path, halves: tuple[str, ...], source: ParamSource, *, is_ours: bool) -> Weights:
    temporal = temporal_of(path / TAESD.temporal_folder, TAESD) if "decoder" in halves else None
    lacks = tuple(half for half in HALVES if half not in halves)
    config = VAEConfig(kind=VAEKind.TAESD, temporal=temporal)
    part = ComponentWeights(TAESD, config, {}, source, lacks)
    return Weights({VAE.folder: part}, is_ours=is_ours)


def _is_ours(path: Path) -> bool:
    return index_of(path).get("_class_name") == TAESD_CLASS


def _stored_halves(path: Path) -> tuple[str, ...]:
    halves = index_of(path).get("halves")
    if not isinstance(halves, list) or not halves or any(half not in HALVES for half in halves):
        raise UserError(
            f"{path / INDEX}: field 'halves' is {halves!r}; supported: some of {', '.join(HALVES)}"
        )
    return tuple(halves)


def _files(path: Path) -> dict[str, Path]:
    """The file of each half that is there."""
    names = {half: taesd_file(half) for half in HALVES}
    if path.is_dir():
        return {half: path / name for half, name in names.items() if (path / name).is_file()}
    return {half: path for half, name in names.items() if path.name == name and path.is_file()}
