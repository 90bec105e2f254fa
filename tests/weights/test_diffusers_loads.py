"""diffusers loads embedded weights and what `convert` writes with no more than the folder's name, and samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from test_convert import _convert
from tiny_pipeline import change_json, tiny_folder

from magicvideo_jax.weights.locate import EMBEDDED


def sampled(folder: Path) -> np.ndarray:
    """An image by the plainest call there is."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    generator = torch.Generator().manual_seed(0)
    (image,) = pipe(
        "a red circle", num_inference_steps=2, generator=generator, output_type="np"
    ).images
    assert np.isfinite(image).all()
    return image


@pytest.mark.parametrize("name", ["embedded", "embedded_video"])
def test_embedded_weights_sample(name):
    """The image part of the video network."""
    assert sampled(EMBEDDED[name]).shape == (64, 64, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_converted_folder_samples(tmp_path, dtype):
    """Also where the source says another type, as transformers 4 did."""
    source = shutil.copytree(tiny_folder(), tmp_path / "source")
    change_json(source / "text_encoder/config.json", torch_dtype="float16", dtype=None)
    _convert(source, tmp_path / "out", to="diffusers", dtype=dtype)
    said = json.loads((tmp_path / "out/text_encoder/config.json").read_text())
    assert said["dtype"] == "float32"
    assert "torch_dtype" not in said
    image = sampled(tmp_path / "out")
    if dtype == "float32":
        np.testing.assert_array_equal(image, sampled(tiny_folder()))
