"""CLIP's image encoder and its text encoder with the projection: parity with transformers on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import quick
from torch_weights import copied, from_torch, randomise, relative_error, to_torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import CLIPTextEmbedder, TextEmbedderConfig
from magicvideo_jax.models.clip_vision import (
    VISION_B_32,
    VISION_L_14,
    CLIPVisionEncoder,
    VisionConfig,
    clip_images,
)
from magicvideo_jax.weights.clip_json import text_embedder_json, vision_json
from magicvideo_jax.weights.tables.clip_keys import TEXT_EMBEDDER_TABLE, VISION_TABLE

TINY = {"size": 24, "patch": 8, "width": 32, "layers": 3, "heads": 4, "hidden": 96, "embedding": 20}


def torch_vision(config: VisionConfig) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_json(config)))


def some_images(config: VisionConfig) -> np.ndarray:
    shape = (2, config.size, config.size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def error_of(config: VisionConfig) -> float:
    theirs, images = randomise(torch_vision(config)), some_images(config)
    network = bind(lambda keys: CLIPVisionEncoder(config, keys=keys))
    params = copied(VISION_TABLE, network.shapes, theirs.state_dict())
    expected = theirs(to_torch(images)).image_embeds
    error = relative_error(quick(network.apply)(params, images), expected)
    print(f"relative error {error:.1e}")
    return error


@pytest.mark.parametrize("activation", Activation)
def test_embeddings_of_images_are_those_of_transformers(activation: Activation):
    assert error_of(VisionConfig(**TINY, activation=activation)) < 1e-4


def test_embeddings_of_texts_are_those_of_transformers():
    sizes = {"width": 32, "layers": 2, "heads": 4, "hidden": 96, "vocabulary": 120, "tokens": 13}
    config = TextEmbedderConfig(**sizes, embedding=20)
    theirs = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**text_embedder_json(config))))
    ids = np.random.default_rng(0).integers(2, 100, (3, 13), dtype=np.int32)
    ids[0, 5:], ids[1, 12], ids[2, 1:] = 119, 119, 119  # ends of texts, and padding after them
    network = bind(lambda keys: CLIPTextEmbedder(config, keys=keys))
    params = copied(TEXT_EMBEDDER_TABLE, network.shapes, theirs.state_dict())
    expected = theirs(torch.from_numpy(ids).long()).text_embeds
    error = relative_error(quick(network.apply)(params, ids), expected)
    print(f"relative error {error:.1e}")
    assert error < 1e-4


@pytest.mark.parametrize("size", [(48, 64), (31, 31), (100, 40), (12, 16)])
def test_images_are_shown_as_transformers_shows_them(size: tuple[int, int]):
    height, width = size
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))
    sides = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    expected = CLIPImageProcessorPil(**sides)(Image.fromarray(picture), return_tensors="pt")
    expected = from_torch(expected["pixel_values"], (1,))
    ours = np.asarray(clip_images(to_float(jnp.asarray(picture)[None]), 24))
    levels = np.abs(ours - expected) * 0.2686 * 255
    print(f"{levels.mean():.3f} levels apart, {levels.max():.1f} at most")
    assert levels.mean() < 0.02
    assert levels.max() < 1.1


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(VISION_B_32, 87_456_000 + 393_216), (VISION_L_14, 303_179_776 + 786_432)],
    ids=["ViT-B/32", "ViT-L/14"],
)
def test_full_size_counts(config: VisionConfig, parameters: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in torch_vision(config).parameters()) == parameters
    network = bind(lambda keys: CLIPVisionEncoder(config, keys=keys))
    assert count_parameters(network.shapes) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("config", [VISION_B_32, VISION_L_14], ids=["ViT-B/32", "ViT-L/14"])
def test_full_size_equals_transformers(config: VisionConfig):
    assert error_of(config) < 1e-4
