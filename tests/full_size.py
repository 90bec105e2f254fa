"""A Stable Diffusion 1.5 of full size with fresh weights, as a folder in diffusers' layout."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from magicvideo_jax.data.shapes import vocabulary
from magicvideo_jax.data.tokenizer import build_vocabulary
from magicvideo_jax.diffusion.settings import NoiseSettings
from magicvideo_jax.models.clip import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import parts
from magicvideo_jax.weights.folders import write_diffusers
from magicvideo_jax.weights.noise import noise_json


def write_random_sd15(folder: Path) -> None:
    """float16 files, 2 GB; one network in memory at a time."""
    build_vocabulary(vocabulary(), folder.with_name("words"), length=77)
    noise = NoiseSettings()
    model = parts.StableDiffusion(
        unet=_fresh(parts.UNET, SD1),
        vae=_fresh(parts.VAE, VAEConfig()),
        text_encoder=_fresh(parts.TEXT, VIT_L),
        noise=noise,
        noise_json=noise_json(noise),
        tokenizer=folder.with_name("words"),
    )
    write_diffusers(model, folder, dtype=np.float16)


def _fresh(kind: parts.Kind, config) -> parts.Part:
    def load(shapes, **_):
        return jax.jit(kind.network(config).init)(jax.random.key(0))

    return replace(parts.part_of(kind, config, {}), load=load)
