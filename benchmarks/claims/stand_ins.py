"""Weights that ablations begin with and that exist nowhere: written once, the same for all seeds.

image_encoder    a vision transformer of CLIP's form with random weights. Nobody has trained a CLIP on drawn shapes: its
                 embeddings are random features of a frame, which say what is in it but in no space of words.
pixel_pipeline   the embedded text encoder beside a U-Net on pixels with random weights, so that a baseline in pixel
                 space reads captions by the same encoder as a model of latents.
"""

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jax

from benchmarks.claims.config_files import experiment_of
from magicvideo_jax.core.files import atomic_write
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.clip_vision import VisionConfig
from magicvideo_jax.weights.clip_encoders import VISION
from magicvideo_jax.weights.components import TEXT, UNET, VAE, Weights, component_weights
from magicvideo_jax.weights.folders import CONFIG
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.tensor_files import SAFETENSORS
from magicvideo_jax.weights.writing.write_folders import (
    names_of,
    write_config,
    write_jax,
    write_named,
)

SMALL_VISION = VisionConfig(size=64, patch=8, width=64, layers=2, heads=4, hidden=256, embedding=64)


def write_image_encoder(folder: Path) -> None:
    """Write random weights of `SMALL_VISION` as transformers writes CLIP's."""
    params = VISION.network(SMALL_VISION).init(jax.random.key(0))
    part = component_weights(VISION, SMALL_VISION, params)
    write_named(
        folder / f"{VISION.stem}{SAFETENSORS}", names_of(part, VISION.table), flatten(params)
    )
    write_config(folder / CONFIG, part.json)


def write_pixel_pipeline(folder: Path) -> None:
    """Write the embedded text encoder and the image U-Net of `configs/vdm.py` as a folder of ours."""
    model = experiment_of("vdm").model
    unet = replace(model.unet, temporal=None)
    embedded = open_weights("embedded", argument="init_from")
    parts = {
        UNET.folder: component_weights(UNET, unet, UNET.network(unet).init(jax.random.key(0))),
        VAE.folder: component_weights(VAE, model.vae, {}),
        TEXT.folder: embedded.parts[TEXT.folder],
    }
    weights = Weights(parts, model.noise, noise_json(model.noise), tokenizer=embedded.tokenizer)
    write_jax(weights, folder)


STAND_INS: Mapping[str, Callable[[Path], None]] = {
    "image_encoder": write_image_encoder,
    "pixel_pipeline": write_pixel_pipeline,
}


def write_once(name: str, folder: Path) -> None:
    """Write stand-in weights, unless they are there. Runs side by side wait for the one that writes them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with atomic_write(folder) as aside:
                aside.mkdir()
                STAND_INS[name](aside)
