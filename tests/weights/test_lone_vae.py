"""A VAE alone is a VAE for a run, for sampling and for `prepare`; what weights lack is said by argument."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_experiment import tiny
from tiny_pipeline import FILES, change, single_file_of, tiny_folder

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.opening.initial_weights import (
    initial_of,
    initial_weights,
    with_vae_of,
)
from magicvideo_jax.experiment.pipeline import load
from magicvideo_jax.preparation.latent_encoder import open_latent_encoder
from magicvideo_jax.weights.tables import compvis_keys as compvis

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, str]:
    """A VAE with another decoder but the tiny pipeline's encoder, in three forms."""
    place = tmp_path_factory.mktemp("vae")
    folder = shutil.copytree(tiny_folder(), place / "whole")
    change(folder / FILES["vae"], lambda w: w.update({"decoder.conv_out.bias": torch.ones(3)}))
    single = {
        key.removeprefix(compvis.VAE_PREFIX): x.contiguous()
        for key, x in single_file_of(folder).items()
        if key.startswith(compvis.VAE_PREFIX)
    }
    torch.save({"state_dict": single}, place / "compvis.ckpt")
    forms = {
        "folder": folder / "vae",
        "file": folder / FILES["vae"],
        "compvis": place / "compvis.ckpt",
    }
    return {name: str(path) for name, path in forms.items()}


@pytest.mark.parametrize("form", ["folder", "file", "compvis"])
def test_a_lone_vae_takes_the_place_of_a_models_vae(forms, form):
    whole = initial_weights(str(tiny_folder()))
    joined = with_vae_of(whole, forms[form], argument="--vae")
    part = joined.parts[Component.VAE]
    np.testing.assert_array_equal(flatten(part.load(part.shapes()))["decoder.conv_out.bias"], 1)
    assert joined.parts[Component.UNET] is whole.parts[Component.UNET]


@pytest.mark.parametrize("form", ["folder", "file", "compvis"])
def test_a_lone_vae_encodes_for_a_data_set(forms, form):
    ours = open_latent_encoder(forms[form], argument="--vae")
    theirs = open_latent_encoder(str(tiny_folder()), argument="--vae")
    assert ours.identity == theirs.identity
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(ours.batches(1)(pixels), theirs.batches(1)(pixels))


def saved_without(place: Path, *prefixes: str) -> str:
    tensors = single_file_of(tiny_folder())
    kept = {key: x for key, x in tensors.items() if not key.startswith(prefixes)}
    torch.save(kept, place / "sd.ckpt")
    return str(place / "sd.ckpt")


def test_a_run_says_which_argument_supplies_what_its_weights_lack(tmp_path, forms):
    no_vae = saved_without(tmp_path, "first_stage_model.")
    with pytest.raises(UserError, match=r"config\.init_from=.*no VAE: set config\.vae_from"):
        initial_of(tiny(init_from=no_vae))
    joined = initial_of(tiny(init_from=no_vae, vae_from=forms["compvis"]))
    assert set(joined.parts) == {Component.UNET, Component.VAE, Component.TEXT}
    no_text = saved_without(tmp_path, "cond_stage_model.")
    with pytest.raises(UserError, match=r"config\.init_from=.*no text encoder: convert.*--text"):
        initial_of(tiny(init_from=no_text))
    unet = str(tiny_folder() / "unet")
    with pytest.raises(UserError, match="no VAE and no text encoder"):
        initial_of(tiny(init_from=unet))


def test_a_vae_of_other_channels_is_refused_where_there_is_none_to_compare(tmp_path):
    no_vae = saved_without(tmp_path, "first_stage_model.")
    with pytest.raises(UserError, match=r"config\.vae_from=embedded.*takes 4 channels.*have 8"):
        initial_of(tiny(init_from=no_vae, vae_from="embedded"))


def test_sampling_says_what_weights_lack(tmp_path, forms):
    for path, words in (
        (saved_without(tmp_path, "first_stage_model."), "no VAE: give --vae WEIGHTS"),
        (forms["folder"], "holds no U-Net"),
        (str(tiny_folder() / "unet"), "no VAE and no text encoder"),
    ):
        with pytest.raises(UserError, match=words):
            load(path)


def test_notes_of_weights_are_said_once(tmp_path, capfd):
    tensors = single_file_of(tiny_folder()) | {"control_model.x": torch.ones(1)}
    torch.save(tensors, tmp_path / "sd.ckpt")
    for _ in range(2):
        initial_weights(str(tmp_path / "sd.ckpt"))
    assert capfd.readouterr().err.count("left out a ControlNet") == 1


@pytest.mark.parametrize(("half", "needs"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_half_of_taesd_is_refused_where_the_other_is_needed(tmp_path, shared_assets, half, needs):
    file = shared_assets / "taesd" / f"taesd_{half}.safetensors"
    assert load_file(file)
    if needs == "encoder":
        with pytest.raises(UserError, match=r"--vae=.*TAESD without its encoder"):
            open_latent_encoder(str(file), argument="--vae")
    else:
        encoder = open_latent_encoder(str(file), argument="--vae")
        pixels = np.zeros((1, 1, 16, 16, 3), np.uint8)
        assert encoder.batches(1)(pixels).shape == (1, 1, 2, 2, 8)
    with pytest.raises(UserError, match=rf"config\.init_from=.*TAESD without its {needs}"):
        initial_of(tiny(init_from=str(file)))
