"""Opened weights are whole, finite and belong together; what sampling could not read is refused when it is opened."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from tiny_pipeline import FILES, change, change_json, single_file_of, tiny_folder

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.opening.initial_weights import initial_weights
from magicvideo_jax.weights.components import VAE, component_weights
from magicvideo_jax.weights.jax_params import save_params
from magicvideo_jax.weights.locate import EMBEDDED
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing.write_folders import write_jax


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder(), tmp_path / "source")


def widened(folder: Path, channels: int) -> Path:
    """The same weights with a U-Net that takes so many channels."""

    def wide(weights):
        w = weights["conv_in.weight"]
        weights["conv_in.weight"] = torch.zeros(len(w), channels, 3, 3)

    change(folder / FILES["unet"], wide)
    change_json(folder / "unet/config.json", in_channels=channels)
    return folder


@pytest.mark.parametrize(
    ("channels", "task"),
    [(9, "inpainting"), (5, "depth-to-image"), (7, "upscaler"), (8, "InstructPix2Pix"), (6, "")],
)
def test_a_unet_of_another_task_is_refused_when_it_is_opened(folder, channels, task):
    with pytest.raises(UserError, match=rf"takes {channels} channels and latents have 4.*{task}"):
        open_weights(widened(folder, channels))


def test_an_inpainting_single_file_is_refused_likewise(tmp_path):
    tensors = single_file_of(tiny_folder())
    key = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[key] = torch.zeros(len(tensors[key]), 9, 3, 3)
    torch.save(tensors, tmp_path / "sd.ckpt")
    with pytest.raises(UserError, match="inpainting"):
        open_weights(tmp_path / "sd.ckpt")


def test_a_text_encoder_of_another_width_is_refused(folder):
    def wide(weights):
        for key in [key for key in weights if "attn2.to_k" in key or "attn2.to_v" in key]:
            weights[key] = torch.zeros(len(weights[key]), 32)

    change(folder / FILES["unet"], wide)
    change_json(folder / "unet/config.json", cross_attention_dim=32)
    with pytest.raises(UserError, match=r"states have 64 numbers and the U-Net attends to 32"):
        open_weights(folder)


def test_a_tokenizer_of_more_words_than_the_encoder_knows_is_refused(folder):
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(EMBEDDED["embedded"] / "tokenizer", folder / "tokenizer")
    with pytest.raises(UserError, match="tokenizer: 804 tokens and the text encoder knows 54"):
        open_weights(folder)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["diffusers", "jax", "memory", "float64"])
def test_numbers_that_are_not_finite_are_named_with_their_tensor(tmp_path, side, number):
    source = open_weights(tiny_folder()).parts["vae"]
    params = jax.tree.map(np.array, source.load(source.shapes()))
    params["decoder"]["conv_out"]["bias"][1] = number
    broken = component_weights(VAE, source.config, params)
    if side == "jax":
        (tmp_path / "vae").mkdir()
        save_params(tmp_path / "vae/params", params)
        (tmp_path / "vae/config.json").write_text(json.dumps(source.json))
        broken = open_weights(tmp_path).parts["vae"]
    elif side != "memory":
        shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
        bias = torch.tensor([0.0, number, 0.0], dtype=torch.float64)
        if side == "float64" and number > 0:
            bias[1] = 1e300  # finite, but not in float32
        change(tmp_path / FILES["vae"], lambda w: w.update({"decoder.conv_out.bias": bias}))
        broken = open_weights(tmp_path).parts["vae"]
    with pytest.raises(UserError, match=r"decoder\.conv_out\.bias: 1 of 3 numbers are not finite"):
        broken.load(broken.shapes())


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: (t / "merges.txt").unlink(), "merges.txt"),
        (lambda t: _cut(t / "vocab.json"), "vocab.json: not JSON"),
        (lambda t: (t / "vocab.json").write_text("[1, 2]"), "vocab.json: expected a JSON object"),
        (lambda t: (t / "vocab.json").write_text('{"a": "b"}'), "no table from tokens to ids"),
        (lambda t: [file.unlink() for file in t.iterdir()], "no tokenizer here"),
        (lambda t: (t / "vocab.json").write_bytes(b"<!DOCTYPE html>"), "a web page"),
    ],
)
def test_a_broken_tokenizer_is_refused_when_weights_are_opened(tmp_path, damage, words):
    source = shutil.copytree(EMBEDDED["embedded"], tmp_path / "source")
    damage(source / "tokenizer")
    with pytest.raises(UserError, match=words) as error:
        open_weights(source)
    assert str(source / "tokenizer") in str(error.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"steps": 0}, r"_sample\.steps=0: give at least 1"),
        ({"vigour": 1}, r"_sample\.vigour: no such field"),
        ({"sampler": "best"}, r"_sample\.sampler='best': give one of ddim"),
    ],
)
def test_settings_to_sample_with_are_checked_when_they_are_used(tmp_path, said, words):
    """Those that weights say in their `model_index.json`."""
    source = shutil.copytree(EMBEDDED["embedded"], tmp_path / "source")
    change_json(source / "model_index.json", _sample=said)
    with pytest.raises(UserError, match=rf"^weights: model_index\.json: {words}"):
        initial_weights(str(source)).sample("weights")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("merges.txt", "#version: 0.2\nno such pair\n"),
        ("merges.txt", "\x00\xff"),
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", "[]"),
    ],
)
def test_errors_of_the_tokenizers_library_are_one_line(tmp_path, file, content):
    folder = shutil.copytree(EMBEDDED["embedded"] / "tokenizer", tmp_path / "tokenizer")
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=r"tokenizer: CLIP's tokenizer cannot be read") as error:
        CaptionTokenizer(folder, length=24)
    assert "\n" not in str(error.value)


def test_every_key_is_asked_for_before_anything_is_written(tmp_path, folder):
    """The text encoder is written last; a key too many in it is found first."""
    change(folder / FILES["text_encoder"], lambda w: w.update({"stranger": torch.ones(1)}))
    with pytest.raises(UserError, match="1 unknown: stranger"):
        open_weights(folder)
    write_jax(open_weights(tiny_folder()), tmp_path / "jax")
    config = tmp_path / "jax/text_encoder/config.json"
    change_json(config, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"text_encoder/params.*layers\.2"):
        open_weights(tmp_path / "jax")
