"""LaVie's checkpoints: told apart by their keys, complete at full size, refused in one line where they are broken."""

import shutil
from argparse import Namespace
from dataclasses import replace
from json import dumps
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionUpscalePipeline
from lavie_twin import KINDS, tiny_twin, weights_of
from safetensors.torch import load_file, save_file
from test_convert import _convert
from tiny_lavie import stable_diffusion, upscaler

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion import known_schedules
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.models import temporal
from magicvideo_jax.models.unet import SD1, SD_X4
from magicvideo_jax.weights.components import UNET
from magicvideo_jax.weights.formats.lavie_file import lavie_kind
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.tables.lavie_keys import frequency_keys, rotary_frequencies
from magicvideo_jax.weights.tables.naming import name_of
from magicvideo_jax.weights.tensor_files import read_json
from magicvideo_jax.weights.writing.write_folders import write_diffusers, write_jax

FULL_SIZE = {
    "base": (replace(SD1, temporal=temporal.LAVIE), 830, 909_124_356),
    "interpolation": (
        replace(SD1, temporal=temporal.LAVIE_INTERPOLATION, channels_in=8),
        798,
        None,
    ),
    "vsr": (replace(SD_X4, temporal=temporal.LAVIE_VSR), 1158, 691_036_692),
}


def state_of(kind: str) -> dict[str, torch.Tensor]:
    return {key: x.clone() for key, x in tiny_twin(kind).twin.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_key_tables_are_complete_at_full_size(kind: str):
    config, tensors, numbers = FULL_SIZE[kind]
    known = lavie_kind(config.temporal)
    assert known is not None
    shapes = flatten(UNET.network(config).shapes)
    names = {path: name_of(known.table, path, len(x.shape)) for path, x in shapes.items()}
    theirs = {name.key: name.layout.shape_of(shapes[path].shape) for path, name in names.items()}
    constants = frequency_keys(theirs)
    assert len(theirs) == len(names)
    assert len(theirs) + len(constants) == tensors
    if numbers:
        assert sum(map(np.prod, theirs.values())) + 16 * len(constants) == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_table_has_the_names_of_the_checkpoint(kind: str):
    """Constants included, so that what is written loads strictly."""
    assert set(frequency_keys(weights_of(tiny_twin(kind).twin))) == (
        state_of(kind).keys() - weights_of(tiny_twin(kind).twin).keys()
    )


def as_published(path: Path, state: dict[str, torch.Tensor]) -> None:
    """The form that is published, the entries that training left beside the average included."""
    torch.save({"model": {}, "ema": state, "opt": {"step": 1}, "args": Namespace(lr=1)}, path)


def with_prefix(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({f"module.{key}": x for key, x in state.items()}, path)


FORMS = {"published": as_published, "module": with_prefix, "flat": torch.save}


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("base", form) for form in (*FORMS, "safetensors")),
        ("interpolation", "published"),
        ("vsr", "published"),
        ("vsr", "safetensors"),
    ],
)
def test_a_checkpoint_is_told_by_its_keys_and_read_whole(tmp_path: Path, kind: str, form: str):
    state = state_of(kind)
    if form == "safetensors":
        path = tmp_path / "a.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "a.pt"
        FORMS[form](*((path, state) if form != "flat" else (state, path)))
    weights = open_weights(path)
    part = weights.parts["unet"]
    assert part.config == tiny_twin(kind).config
    expected = {
        "base": known_schedules.LAVIE_NOISE,
        "interpolation": known_schedules.LAVIE_INTERPOLATION_NOISE,
        "vsr": known_schedules.LAVIE_VSR_NOISE,
    }
    assert weights.noise == expected[kind]
    params = flatten(part.load(part.shapes()))
    known = lavie_kind(part.config.temporal)
    assert known is not None
    for path_in_tree, value in params.items():
        name = name_of(known.table, path_in_tree, value.ndim)
        assert np.array_equal(name.layout.to_theirs(np.asarray(value)), state.pop(name.key))
    assert all(key.endswith("freqs") for key in state)


def test_the_rotary_frequencies_have_the_bits_of_torch():
    exponents = torch.arange(0, 32, 2)[:16].float() / 32
    assert np.array_equal(rotary_frequencies(), (1.0 / (10000**exponents)).numpy())


def broken(kind: str, key: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = state_of(kind)
    found = next(name for name in state if name.endswith(key))
    if tensor is None:
        del state[found]
    else:
        state[found] = tensor
    return state


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: broken("base", "freqs", torch.ones(16)), "rotary_emb.freqs is not the rotary"),
        (lambda: broken("base", "freqs", torch.ones(8)), "rotary_emb.freqs is not the rotary"),
        (
            lambda: broken("interpolation", "conv_in.weight", torch.ones(64, 9, 3, 3)),
            "takes 9 channels; LaVie's interpolation network takes 8",
        ),
        (lambda: broken("vsr", "shift_conv.bias", None), "missing: down_temporal_blocks.0.shift"),
        (lambda: broken("base", "norm_temp.bias", None), "1 missing: .*norm_temp.bias"),
        (lambda: state_of("base") | {"odd": torch.ones(1)}, "1 unknown: odd"),
        (lambda: {"model": state_of("vsr")}, "but model, and no state_dict or ema: save the"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(tmp_path: Path, state, words: str):
    torch.save(state(), tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt.*{words}") as error:
        open_weights(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_half_precision_moves_the_frequencies_by_less_than_a_thousandth(tmp_path: Path):
    state = {key: x.half() for key, x in state_of("base").items()}
    torch.save(state, tmp_path / "a.pt")
    assert open_weights(tmp_path / "a.pt").parts["unet"].config == tiny_twin("base").config


def test_an_upscaler_is_opened_and_loads_in_diffusers_when_it_comes_back(tmp_path: Path):
    weights = open_weights(upscaler())
    assert weights.low_resolution is not None
    assert np.array_equal(
        schedule_of(weights.low_resolution).alphas_cumprod,
        schedule_of(known_schedules.LOW_RESOLUTION_NOISE).alphas_cumprod,
    )
    assert weights.parts["vae"].config.scaling == 0.08333
    (tmp_path / "jax").mkdir()
    write_jax(weights, tmp_path / "jax")
    again = open_weights(tmp_path / "jax")
    assert (again.low_resolution, again.noise) == (weights.low_resolution, weights.noise)
    write_diffusers(again, tmp_path / "back")
    back = StableDiffusionUpscalePipeline.from_pretrained(tmp_path / "back")
    source = StableDiffusionUpscalePipeline.from_pretrained(upscaler())
    assert back.low_res_scheduler.config.beta_schedule == "scaled_linear"
    for name in ("unet", "vae", "text_encoder"):
        theirs = getattr(source, name).state_dict()
        for key, x in getattr(back, name).state_dict().items():
            assert torch.equal(x, theirs[key]), key


def test_an_older_upscaler_has_the_scale_that_its_vae_does_not_say(tmp_path: Path):
    folder = shutil.copytree(upscaler(), tmp_path / "old")
    json = folder / "vae/config.json"
    content = read_json(json)
    del content["scaling_factor"]
    json.write_text(dumps(content))
    assert open_weights(folder).parts["vae"].config.scaling == 0.08333


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_convert_writes_is_the_checkpoint_bit_by_bit(tmp_path: Path, kind: str, dtype: str):
    """Constants too, so that LaVie's own code loads it strictly."""
    source, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    state = {key: x.to(getattr(torch, dtype)) for key, x in state_of(kind).items()}
    torch.save({"ema": state}, source)
    _convert(source, target, dtype=dtype)
    back = load_file(target)
    assert back.keys() == state.keys()
    for key, x in state.items():
        assert x.dtype == back[key].dtype
        assert torch.equal(x, back[key]), key


def test_a_converted_model_comes_back_as_the_checkpoint(tmp_path: Path):
    """The way leads over a folder of ours that also holds the VAE and the text encoder."""
    sd = stable_diffusion()
    torch.save(state_of("base"), tmp_path / "a.pt")
    _convert(tmp_path / "a.pt", tmp_path / "jax", vae=str(sd), text=str(sd))
    _convert(tmp_path / "jax", tmp_path / "b.safetensors")
    back = load_file(tmp_path / "b.safetensors")
    assert open_weights(tmp_path / "jax").noise == known_schedules.LAVIE_NOISE
    assert all(torch.equal(x, back[key]) for key, x in state_of("base").items())
