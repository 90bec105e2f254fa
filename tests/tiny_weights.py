"""Weights of a tiny Stable Diffusion, as a folder."""

from pathlib import Path

from tiny import random_params

from magicvideo_jax.core.protocols import Params
from magicvideo_jax.experiment.config import ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.weights.folders import write_jax
from magicvideo_jax.weights.noise import noise_json
from magicvideo_jax.weights.parts import TEXT, UNET, VAE, StableDiffusion, part_of


def random_model(model: ModelConfig, seed: int = 0) -> Params:
    return {c.value: random_params(network.shapes, seed) for c, network in Networks(model).by_component.items()}


def written(folder: Path, model: ModelConfig, params: Params, tokenizer: Path) -> str:
    parts = {
        "unet": part_of(UNET, model.unet, params["unet"]),
        "vae": part_of(VAE, model.vae, params["vae"]),
        "text_encoder": part_of(TEXT, model.text, params["text_encoder"]),
    }
    noise = {"noise": model.noise, "noise_json": noise_json(model.noise)}
    write_jax(StableDiffusion(**parts, **noise, tokenizer=tokenizer), folder)
    return str(folder)
