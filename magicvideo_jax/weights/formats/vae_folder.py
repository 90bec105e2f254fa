"""A folder that holds `vae/`, perhaps `vae_temporal/`, and no pipeline."""

from pathlib import Path

from magicvideo_jax.weights.components import UNET, VAE, Weights
from magicvideo_jax.weights.folders import CONFIG, INDEX, PARAMS, open_jax_part, open_torch_part
from magicvideo_jax.weights.formats.weight_format import OpenOptions


class VAEFolder:
    """A VAE or VideoVAE alone, in diffusers' layout or ours: what `convert` writes of one."""

    name = "a folder of `vae/` alone"

    def matches(self, path: Path) -> bool:
        """Whether there is a VAE, and neither a pipeline nor a part of one."""
        has_more = (path / INDEX).exists() or (path / UNET.folder).exists()
        return (path / VAE.folder / CONFIG).is_file() and not has_more

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the VAE."""
        options.refuse_all_but("variant", path=path, why="a VAE")
        if (path / VAE.folder / PARAMS).exists():
            return Weights({VAE.folder: open_jax_part(VAE, path)}, is_ours=True)
        part, notes = open_torch_part(
            VAE, path / VAE.folder, temporal=path / VAE.temporal_folder, variant=options.variant
        )
        return Weights({VAE.folder: part}, notes=notes)
