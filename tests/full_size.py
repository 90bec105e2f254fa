"""A Stable Diffusion 1.5 of full size with random weights, as a folder in diffusers' layout."""

from pathlib import Path

import numpy as np
from tiny import random_params

from magicvideo_jax.data.drawn.shape_clips import vocabulary
from magicvideo_jax.data.tokenizer import build_vocabulary
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.clip_text import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    Weights,
)
from magicvideo_jax.weights.param_sources import GivenParams
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.writing.write_folders import write_diffusers


def write_random_sd15(folder: Path) -> None:
    """float16 files, 2 GB; one network in memory at a time. Nothing is zero, unlike in a fresh network: gradients
    reach everything."""
    build_vocabulary(vocabulary(), folder.with_name("words"), length=77)
    noise = NoiseScheduleConfig()
    networks = {
        "unet": _random(UNET, SD1),
        "vae": _random(VAE, VAEConfig()),
        "text_encoder": _random(TEXT, VIT_L),
    }
    weights = Weights(networks, noise, noise_json(noise), tokenizer=folder.with_name("words"))
    write_diffusers(weights, folder, dtype=np.float16)


def _random(kind: ComponentSpec, config) -> ComponentWeights:
    shapes = kind.network(config).shapes
    source = GivenParams(shapes, lambda: random_params(shapes), kind.words)
    return ComponentWeights(kind, config, kind.write(config), source)
