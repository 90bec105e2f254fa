"""A single-file checkpoint of Stable Diffusion 1.x or 2.x, in the keys of CompVis's code.

There is no configuration in it: the shapes of the weights tell the networks (`deduction.py`),
flags and the version tell the schedule, and what is not a network of ours is left out
(`tables/known_extras.py`).
"""

from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.components import TEXT, UNET, VAE, ComponentWeights, Weights
from magicvideo_jax.weights.config_json import text_json, unet_json, vae_json
from magicvideo_jax.weights.deduction import (
    TensorShapes,
    clip_of_shapes,
    openclip_of_shapes,
    unet_of_shapes,
    vae_of_shapes,
)
from magicvideo_jax.weights.folders import assumed_noise
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.param_sources import TensorParams, with_current_keys, without_extras
from magicvideo_jax.weights.tables import compvis_keys as compvis
from magicvideo_jax.weights.tables.known_extras import SINGLE_FILE_EXTRAS, name_of_other_model
from magicvideo_jax.weights.tables.openclip_keys import as_linear_layers, openclip_key
from magicvideo_jax.weights.tables.vae_keys import ATTENTION_WEIGHT, COMPVIS_VAE_ALIASES
from magicvideo_jax.weights.tensor_files import has_tensors, open_tensors
from magicvideo_jax.weights.tensors import Tensors, flat_convolutions

_PREFIXES = (
    compvis.UNET_PREFIX,
    compvis.VAE_PREFIX,
    compvis.TEXT_1_PREFIX,
    compvis.TEXT_2_PREFIX,
    compvis.EMA_PREFIX,
)
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
"""Keys of empty tensors by which fine-tuned files say what their U-Net predicts and that their
last time is noise."""


class SingleFile:
    """One `.safetensors` or `.ckpt` with the U-Net and, mostly, the VAE and the text encoder."""

    name = "a single-file checkpoint (.safetensors, .ckpt)"

    def matches(self, path: Path) -> bool:
        """Whether there are keys `model.diffusion_model.*`."""
        return has_tensors(path) and compvis.is_single_file(open_tensors(path))

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the networks that are there."""
        options.refuse_all_but("ema", "prediction", "tokenizer", path=path, why="a single file")
        where, tensors = str(path), open_tensors(path)
        _check_keys(tensors, where=where)
        kept, notes = without_extras(tensors, SINGLE_FILE_EXTRAS, where=where)
        raw_unet = compvis.component_tensors(kept, compvis.UNET_PREFIX)
        config, numbering = unet_of_shapes(TensorShapes(raw_unet, where=f"{where} (U-Net)"))
        is_2 = config.linear_projection
        noise, assumed = _noise(tensors, is_2=is_2, asked=options.prediction, where=where)
        size = 96 if is_2 and noise.prediction_type is Prediction.V else 64
        weights = _averaged(raw_unet, tensors, where=where) if options.ema else raw_unet
        parts: dict[str, ComponentWeights[Any]] = {
            UNET.folder: ComponentWeights(
                UNET,
                config,
                unet_json(config, sample_size=size),
                TensorParams(
                    UNET.table,
                    weights,
                    f"{where} (U-Net)",
                    lambda key: compvis.unet_key(key, numbering),
                ),
            )
        }
        if vae := compvis.component_tensors(kept, compvis.VAE_PREFIX):
            parts[VAE.folder] = compvis_vae(vae, f"{where} (VAE)", latent_size=size)
        if text := _text(kept, tensors, f"{where} (text encoder)"):
            parts[TEXT.folder] = text
        if options.tokenizer is None:
            notes += ("a single file holds no tokenizer: give --tokenizer FOLDER to add one",)
        return Weights(
            parts, tokenizer=options.tokenizer, notes=notes + assumed, **assumed_noise(noise)
        )


def compvis_vae(tensors: Tensors, where: str, *, latent_size: int) -> ComponentWeights[VAEConfig]:
    """A VAE in CompVis's keys, without their prefix."""
    tensors = with_current_keys(tensors, COMPVIS_VAE_ALIASES, where=where)
    tensors = flat_convolutions(tensors, ATTENTION_WEIGHT)
    config = vae_of_shapes(TensorShapes(tensors, where=where), down="down", block="block")
    levels = len(config.widths)
    source = TensorParams(VAE.table, tensors, where, lambda key: compvis.vae_key(key, levels))
    json = vae_json(config, sample_size=latent_size * config.factor)
    return ComponentWeights(VAE, config, json, source)


def _check_keys(tensors: Tensors, *, where: str) -> None:
    """Every key belongs to a network, to its averages, or to what is known to be no weight."""
    other = name_of_other_model(key for key in tensors if not key.startswith("control_model."))
    if other:
        raise UserError(f"{where}: holds {other}; supported: Stable Diffusion 1.x and 2.x")
    known, _ = without_extras(tensors, SINGLE_FILE_EXTRAS, where=where)
    extra = [key for key in known if not key.startswith(_PREFIXES)]
    if extra:
        more = ", ..." if len(extra) > 8 else ""
        raise UserError(f"{where}: {len(extra)} unknown keys: {', '.join(extra[:8])}{more}")


def _noise(
    tensors: Tensors, *, is_2: bool, asked: Prediction | None, where: str
) -> tuple[NoiseScheduleConfig, tuple[str, ...]]:
    """The schedule, and what was assumed of it: what is asked for, what the file's flags say,
    what the version does."""
    prediction, notes = asked, ()
    if prediction is None and V_PREDICTION in tensors:
        prediction, notes = Prediction.V, (f"{where}: its flag {V_PREDICTION} says v-prediction",)
    if prediction is None and is_2:
        prediction = Prediction.V
        notes = (
            "Stable Diffusion 2.x files do not say what the network predicts; assuming v (768-pixel models): "
            "for the 512-pixel base models give --prediction_type epsilon",
        )
    noise = NoiseScheduleConfig(prediction_type=prediction or Prediction.EPS)
    if ZERO_SNR not in tensors:
        return noise, notes
    if noise.prediction_type is Prediction.EPS:
        raise UserError(
            f"{where}: its flag {ZERO_SNR} (zero terminal SNR) does not go with predicting epsilon: "
            "give --prediction_type v_prediction"
        )
    noise = NoiseScheduleConfig(
        prediction_type=noise.prediction_type,
        rescale_betas_zero_snr=True,
        timestep_spacing=Spacing.TRAILING,
    )
    return noise, (*notes, f"{where}: its flag {ZERO_SNR} says zero terminal SNR")


def _text(kept: Tensors, tensors: Tensors, where: str) -> ComponentWeights[Any] | None:
    """The text encoder of 1.x (transformers' keys) or 2.x (OpenCLIP's), if the file has one."""
    if clip := compvis.component_tensors(kept, compvis.TEXT_1_PREFIX):
        clip = with_current_keys(clip, TEXT.aliases, where=where)
        config = clip_of_shapes(TensorShapes(clip, where=where))
        return ComponentWeights(
            TEXT, config, text_json(config), TensorParams(TEXT.table, clip, where)
        )
    openclip = as_linear_layers(compvis.component_tensors(kept, compvis.TEXT_2_PREFIX))
    if not openclip:
        return None
    everything = compvis.component_tensors(tensors, compvis.TEXT_2_PREFIX)
    config = openclip_of_shapes(TensorShapes(everything, where=where))
    read = {
        key: tensor
        for key, tensor in openclip.items()
        if not key.startswith(f"transformer.resblocks.{config.layers}.")
    }
    source = TensorParams(TEXT.table, read, where, openclip_key)
    return ComponentWeights(TEXT, config, text_json(config), source)


def _averaged(unet: Tensors, tensors: Tensors, *, where: str) -> Tensors:
    twins = {key: compvis.ema_key(compvis.UNET_PREFIX + key) for key in unet}
    missing = [twin for twin in twins.values() if twin not in tensors]
    if missing:
        raise UserError(
            f"{where}: --ema asks for averaged weights; {len(missing)} are missing: {missing[0]}, ..."
        )
    return {key: tensors[twin] for key, twin in twins.items()}
