"""`convert` takes what is missing from elsewhere, a VAE alone, and nothing that sampling could not read."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from test_convert import _convert
from tiny_pipeline import FILES, change, change_json, single_file_of, states, tiny_folder

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.open import open_weights


def single_without(*prefixes: str) -> dict[str, torch.Tensor]:
    tensors = single_file_of(tiny_folder())
    return {key: x for key, x in tensors.items() if not key.startswith(prefixes)}


def test_a_single_file_takes_its_vae_and_text_encoder_from_elsewhere(tmp_path):
    source = tmp_path / "sd.ckpt"
    torch.save(single_without("first_stage_model.", "cond_stage_model."), source)
    with pytest.raises(UserError, match=r"no VAE and no text encoder: give --vae WEIGHTS and --t"):
        _convert(source, tmp_path / "out", to="diffusers")
    shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
    _convert(source, tmp_path / "out", to="diffusers", vae=tmp_path / "vae", text=tiny_folder())
    theirs, ours = states(tiny_folder()), states(tmp_path / "out")
    for name, tensors in theirs.items():
        assert all(torch.equal(x, ours[name][key]) for key, x in tensors.items()), name
    assert (tmp_path / "out/tokenizer").is_dir()  # the text encoder's, as the file has none


def test_a_supplied_part_must_be_there_and_fit(tmp_path):
    source = tmp_path / "sd.ckpt"
    torch.save(single_without("cond_stage_model."), source)
    with pytest.raises(UserError, match=r"--text=.*holds no text encoder"):
        _convert(source, tmp_path / "out", text=tiny_folder() / "vae")
    with pytest.raises(UserError, match="the U-Net takes 4 channels and latents have 8"):
        _convert(source, tmp_path / "out", vae="embedded", text=tiny_folder())
    assert not (tmp_path / "out").exists()


def test_a_vae_alone_goes_there_and_back(tmp_path):
    shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
    _convert(tmp_path / "vae", tmp_path / "jax")
    _convert(tmp_path / "jax", tmp_path / "back")
    assert not (tmp_path / "back/model_index.json").exists()
    ours = AutoencoderKL.from_pretrained(tmp_path / "back", subfolder="vae").state_dict()
    for key, x in load_file(tiny_folder() / FILES["vae"]).items():
        assert torch.equal(x, ours[key])
    assert set(open_weights(tmp_path / "jax").parts) == {"vae"}


@pytest.mark.parametrize("name", ["out.safetensors", "out.CKPT", "out.bin"])
def test_a_target_that_names_a_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="a folder is written, not a file"):
        _convert(tiny_folder(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["jax", "diffusers"])
def test_weights_that_are_not_finite_are_not_written(tmp_path, to):
    source = shutil.copytree(tiny_folder(), tmp_path / "source")
    bias = torch.full((4,), np.nan)
    change(source / FILES["unet"], lambda w: w.update({"conv_out.bias": bias}))
    with pytest.raises(UserError, match=r"conv_out\.bias: 4 of 4 numbers are not finite"):
        _convert(source, tmp_path / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_tokenizer_that_cannot_be_read_is_not_converted(tmp_path):
    source = shutil.copytree(tiny_folder(), tmp_path / "source")
    (source / "tokenizer/tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="CLIP's tokenizer cannot be read"):
        _convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_infinity_in_a_schedulers_settings_is_kept(tmp_path):
    """diffusers' multistep solvers have it; JSON proper does not."""
    source = shutil.copytree(tiny_folder(), tmp_path / "source")
    change_json(source / "scheduler/scheduler_config.json", lambda_min_clipped=-np.inf)
    _convert(source, tmp_path / "out", to="diffusers")
    said = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert said["lambda_min_clipped"] == -np.inf


def test_a_converted_vae_is_replaced_when_asked(tmp_path):
    for _ in range(2):
        _convert(tiny_folder() / "vae", tmp_path / "out", overwrite=True)
    with pytest.raises(UserError, match="--overwrite"):
        _convert(tiny_folder() / "vae", tmp_path / "out")
