"""Every key of the published networks, at full size: nothing is allocated."""

import json
from importlib import metadata

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jax import ShapeDtypeStruct
from transformers import CLIPTextConfig, CLIPTextModel

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.clip_text import VIT_H_PENULTIMATE, VIT_L
from magicvideo_jax.models.temporal import (
    VIDEO_PARTS,
    PositionEncoding,
    TemporalConfig,
    TemporalMixing,
)
from magicvideo_jax.models.unet import SD1, SD2, UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import components as parts
from magicvideo_jax.weights.config_json import text_json, unet_json, vae_json
from magicvideo_jax.weights.match import match
from magicvideo_jax.weights.tables import compvis_keys as compvis
from magicvideo_jax.weights.tables.naming import NamingStyle, TableRow, name_of
from magicvideo_jax.weights.tensors import Stored


def _keys(kind, config):
    """{their key: their shape}, as the table says."""
    shapes = flatten(kind.network(config).shapes)
    names = {path: name_of(kind.table, path, len(x.shape)) for path, x in shapes.items()}
    assert len({name.key for name in names.values()}) == len(names)
    return {name.key: name.layout.shape_of(shapes[path].shape) for path, name in names.items()}


def _state(module, prefix=""):
    return {
        prefix + key.removeprefix(prefix): tuple(x.shape) for key, x in module.state_dict().items()
    }


@pytest.mark.parametrize("config", [SD1, SD2], ids=["1.x", "2.x"])
def test_unet_keys_are_those_of_diffusers(config):
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(unet_json(config))
    assert _keys(parts.UNET, config) == _state(theirs)


def test_vae_keys_are_those_of_diffusers():
    with torch.device("meta"):
        theirs = AutoencoderKL.from_config(vae_json(VAEConfig()))
    assert _keys(parts.VAE, VAEConfig()) == _state(theirs)


@pytest.mark.parametrize("config", [VIT_L, VIT_H_PENULTIMATE], ids=["1.x", "2.x"])
def test_text_keys_are_those_of_transformers(config):
    with torch.device("meta"):
        theirs = CLIPTextModel(CLIPTextConfig(**text_json(config)))
    assert _keys(parts.TEXT, config) == _state(theirs, "text_model.")


def _independent(name):
    try:
        files = metadata.files("imaginairy") or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs imaginairy's key maps: pip install --no-deps imaginairy==15.0.0")
    (file,) = (
        f for f in files if f.name == f"stable-diffusion-1-5_{name}_diffusers_TO_compvis.json"
    )
    return json.loads(file.read_text())["mapping"]


def _layers(keys):
    return {a.rpartition(".")[0]: b.rpartition(".")[0] for a, b in keys.items()}


def test_compvis_names_agree_with_an_independent_map():
    """The package imaginairy made its maps from activations; they name layers, without `.weight` and `.bias`."""
    numbering = compvis.UNetNumbering(SD1.blocks, tuple(level.heads > 0 for level in SD1.levels))
    unet = {
        key: f"diffusion_model.{compvis.unet_key(key, numbering)}" for key in _keys(parts.UNET, SD1)
    }
    assert _layers(unet) == _independent("unet")
    vae = {
        key: compvis.vae_key(key, len(VAEConfig().widths)) for key in _keys(parts.VAE, VAEConfig())
    }
    assert _layers(vae) == _independent("vae")
    text = {key: f"transformer.{key}" for key in _keys(parts.TEXT, VIT_L)}
    counted = {"text_model.embeddings": "transformer.text_model.embeddings"}  # position_ids
    assert _layers(text) | counted == _independent("text")


@pytest.mark.parametrize("mixing", list(TemporalMixing))
def test_what_a_video_network_adds_keeps_our_names(mixing):
    tiny = UNetConfig(
        levels=(UNetLevelConfig(32, 2), UNetLevelConfig(32, 0)), middle_heads=2, blocks=1, context=8
    )
    temporal = TemporalConfig(frames=2, mixing=mixing, position=PositionEncoding.LEARNED)
    video = UNetConfig(**{**vars(tiny), "temporal": temporal})
    image, shapes = (
        flatten(parts.UNET.network(tiny).shapes),
        flatten(parts.UNET.network(video).shapes),
    )
    for path, x in shapes.items():
        name = name_of(parts.UNET.table, path, len(x.shape))
        assert (name.leaves is NamingStyle.OURS) == (path not in image)
        assert name.leaves is NamingStyle.PYTORCH or name.key == path
    left_out = match(
        parts.UNET.table,
        shapes,
        {key: Stored(shape, "F32", lambda: None) for key, shape in _keys(parts.UNET, tiny).items()},
        where="file",
        may_be_missing=VIDEO_PARTS,
    )
    assert {found.path for found in left_out} == set(image)


def test_all_problems_come_in_one_message():
    table = (TableRow(r"(.*)", r"\1"),)
    shapes = {f"layer{i}.kernel": ShapeDtypeStruct((2, 3), "float32") for i in range(12)}
    tensors = {f"layer{i}.weight": Stored((3, 2), "F32", lambda: None) for i in range(12)}
    assert len(match(table, shapes, tensors, where="file")) == 12
    for i in range(10):
        del tensors[f"layer{i}.weight"]
    tensors["layer10.weight"] = Stored((2, 3), "F32", lambda: None)
    tensors["layer11.weight"] = Stored((3, 2), "I32", lambda: None)
    tensors["stranger"] = Stored((7,), "F32", lambda: None)
    with pytest.raises(UserError) as error:
        match(table, shapes, tensors, where="file")
    text = str(error.value)
    assert "file" in text
    assert "\n" not in text
    assert "10 missing: layer0.weight (3, 2), " in text
    assert "layer8.weight" not in text  # the first eight of a kind are listed
    assert "1 unknown: stranger (7,)" in text
    assert "layer10.weight (2, 3), not (3, 2)" in text
    assert "layer11.weight of I32, not floating point" in text
