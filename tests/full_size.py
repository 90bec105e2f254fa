"""A Stable Diffusion 1.5 of full size with random weights, as a folder in diffusers' layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny import random_params

from magicvideo_jax.data.drawn.shape_clips import vocabulary
from magicvideo_jax.data.tokenizer import build_vocabulary
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.clip_text import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import components as parts
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.write_folders import write_diffusers


def write_random_sd15(folder: Path) -> None:
    """float16 files, 2 GB; one network in memory at a time. Nothing is zero, unlike in a fresh network: gradients
    reach everything."""
    build_vocabulary(vocabulary(), folder.with_name("words"), length=77)
    noise = NoiseScheduleConfig()
    model = parts.StableDiffusion(
        unet=_random(parts.UNET, SD1),
        vae=_random(parts.VAE, VAEConfig()),
        text_encoder=_random(parts.TEXT, VIT_L),
        noise=noise,
        noise_json=noise_json(noise),
        tokenizer=folder.with_name("words"),
    )
    write_diffusers(model, folder, dtype=np.float16)


def _random(kind: parts.ComponentSpec, config) -> parts.ComponentWeights:
    return replace(
        parts.component_weights(kind, config, {}), load=lambda shapes, **_: random_params(shapes)
    )
