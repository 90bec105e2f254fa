"""Weights of a tiny Stable Diffusion, as a folder."""

from pathlib import Path

from tiny import random_params

from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.weights.components import TEXT, UNET, VAE, Weights, component_weights
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.writing.write_folders import write_jax


def random_model(model: ModelConfig, seed: int = 0) -> Params:
    return {
        c.value: random_params(network.shapes, seed)
        for c, network in Networks(model).by_component.items()
    }


def written(folder: Path, model: ModelConfig, params: Params, tokenizer: Path) -> str:
    parts = {
        "unet": component_weights(UNET, model.unet, params["unet"]),
        "vae": component_weights(VAE, model.vae, params["vae"]),
        "text_encoder": component_weights(TEXT, model.text, params["text_encoder"]),
    }
    weights = Weights(parts, model.noise, noise_json(model.noise), tokenizer=tokenizer)
    write_jax(weights, folder)
    return str(folder)
