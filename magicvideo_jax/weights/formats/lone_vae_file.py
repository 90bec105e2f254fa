"""A VAE in one file without its config.json, in diffusers' keys or CompVis's
(`vae-ft-mse-840000-ema-pruned`)."""

from pathlib import Path

from magicvideo_jax.weights.components import VAE, ComponentWeights, Weights
from magicvideo_jax.weights.config_json import vae_json
from magicvideo_jax.weights.deduction import TensorShapes, vae_of_shapes
from magicvideo_jax.weights.formats.single_file import compvis_vae
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.param_sources import TensorParams, with_current_keys, without_extras
from magicvideo_jax.weights.tables.compvis_keys import VAE_PREFIX
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.vae_keys import ATTENTION_WEIGHT
from magicvideo_jax.weights.tensor_files import has_tensors, open_tensors
from magicvideo_jax.weights.tensors import Tensors, flat_convolutions

_COMPVIS, _DIFFUSERS = "encoder.down.", "encoder.down_blocks."
_EXTRAS = (
    KnownExtra(r"loss\..*", "a loss network"),
    KnownExtra(r"model_ema\..*", "averaged weights"),
)


class LoneVAEFile:
    """One weight file that holds a VAE."""

    name = "a file of a VAE"

    def matches(self, path: Path) -> bool:
        """Whether the file holds an encoder and a decoder of Stable Diffusion's VAE, and no
        pipeline."""
        if not has_tensors(path):
            return False
        tensors = _without_prefix(open_tensors(path))
        is_vae = any(key.startswith((_COMPVIS, _DIFFUSERS)) for key in tensors)
        return is_vae and not any(key.startswith("cond_stage_model.") for key in tensors)

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the VAE; its scale is that of Stable Diffusion, as no file of this kind tells it."""
        options.refuse_all_but(path=path, why="a VAE")
        where = str(path)
        tensors, notes = without_extras(_without_prefix(open_tensors(path)), _EXTRAS, where=where)
        if any(key.startswith(_COMPVIS) for key in tensors):
            part = compvis_vae(tensors, where, latent_size=64)
        else:
            tensors = with_current_keys(tensors, VAE.aliases, where=where)
            tensors = flat_convolutions(tensors, ATTENTION_WEIGHT)
            shapes = TensorShapes(tensors, where=where)
            config = vae_of_shapes(shapes, down="down_blocks", block="resnets")
            json = vae_json(config, sample_size=64 * config.factor)
            part = ComponentWeights(VAE, config, json, TensorParams(VAE.table, tensors, where))
        assumed = f"{where} does not say how latents are scaled: {part.config.scaling} is assumed"
        return Weights({VAE.folder: part}, notes=(*notes, assumed))


def _without_prefix(tensors: Tensors) -> Tensors:
    """The same tensors without `first_stage_model.`, which VAEs cut out of a checkpoint keep."""
    return {key.removeprefix(VAE_PREFIX): tensor for key, tensor in tensors.items()}
