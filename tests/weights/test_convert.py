"""`convert` both ways: bit for bit, loaded by diffusers itself, and nothing left where it fails."""

import json
import logging
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_pipeline import (
    FILES,
    change,
    change_json,
    save_shards,
    single_file_of,
    states,
    tiny_folder,
)

from magicvideo_jax.convert import convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights.components import component_weights
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing.write_folders import write_diffusers

FORMS = pytest.mark.parametrize("second", [False, True], ids=["1.x", "2.x"])


def _convert(source, target, **asked):
    """The verb, in this process."""
    defaults = {"to": None, "overwrite": False, "dtype": "float32", "ema": False}
    defaults |= {"prediction_type": None, "tokenizer": None, "vae": None, "text": None}
    defaults |= {"variant": "", "motion": "", "motion_norm": "auto", "lora": []}
    convert(Namespace(source=str(source), target=str(target), **(defaults | asked)))


def _opened(path, **options):
    return open_weights(path, options=OpenOptions(**options))


def _copy(tmp_path, *, second=False) -> Path:
    return shutil.copytree(tiny_folder(second=second), tmp_path / "source")


def _same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key, x in a[name].items():
            assert x.dtype == b[name][key].dtype
            assert torch.equal(x, b[name][key]), key


@pytest.fixture(scope="module", params=[False, True], ids=["1.x", "2.x"])
def there_and_back(request, tmp_path_factory):
    """A tiny pipeline as diffusers saved it, and after JAX."""
    source, place = tiny_folder(second=request.param), tmp_path_factory.mktemp("converted")
    _convert(source, place / "jax")
    _convert(place / "jax", place / "back")
    return source, place / "back"


def test_there_and_back_is_bit_identical(there_and_back):
    source, back = there_and_back
    _same(states(back), states(source))
    for file in (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ):
        assert json.loads((back / file).read_text()) == json.loads((source / file).read_text())
    for file in (source / "tokenizer").iterdir():
        assert (back / "tokenizer" / file.name).read_bytes() == file.read_bytes()


class _Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_diffusers_loads_it_without_a_word_about_keys(there_and_back):
    source, back = there_and_back
    heard = _Heard()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(heard)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(back, local_files_only=True)
    finally:
        for logger in loggers:
            logger.removeHandler(heard)
    assert not [
        line
        for line in heard.lines
        if any(w in line.lower() for w in ("key", "weight", "config", "expected"))
    ]
    original = StableDiffusionPipeline.from_pretrained(source, local_files_only=True)
    for name in FILES:
        theirs, ours = getattr(original, name), getattr(pipeline, name)
        assert all(torch.equal(x, ours.state_dict()[key]) for key, x in theirs.state_dict().items())
    assert dict(pipeline.unet.config, _name_or_path="") == dict(
        original.unet.config, _name_or_path=""
    )
    assert pipeline.tokenizer("ab c").input_ids == original.tokenizer("ab c").input_ids


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_half_precision_comes_back_as_it_was(tmp_path, dtype):
    source = _copy(tmp_path)
    for file in FILES.values():
        change(
            source / file,
            lambda w: w.update({k: x.to(getattr(torch, dtype)) for k, x in w.items()}),
        )
    (source / FILES["unet"]).rename(source / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    _convert(source, tmp_path / "jax")
    params = flatten(
        open_weights(tmp_path / "jax")
        .parts["vae"]
        .load(open_weights(tmp_path / "jax").parts["vae"].network().shapes)
    )
    assert all(x.dtype == np.float32 for x in params.values())
    _convert(tmp_path / "jax", tmp_path / "back", dtype=dtype)
    (source / "unet" / "diffusion_pytorch_model.fp16.safetensors").rename(source / FILES["unet"])
    _same(states(tmp_path / "back"), states(source))


def test_older_folders_are_read(tmp_path):
    """Shards, pickles, the VAE's old names for attention, position ids, a safety checker."""
    source = _copy(tmp_path)
    save_shards(source / FILES["unet"], 3)
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_names(weights):
        for key in [key for key in weights if "mid_block.attentions" in key]:
            for today, old in words.items():
                if f".{today}." in key:
                    weights[key.replace(f".{today}.", f".{old}.")] = weights.pop(key)

    change(source / FILES["vae"], old_names)
    text = load_file(source / FILES["text_encoder"])
    text = {f"text_model.{key.removeprefix('text_model.')}": x for key, x in text.items()}
    torch.save(
        text | {"text_model.embeddings.position_ids": torch.arange(77)[None]},
        source / "text_encoder/pytorch_model.bin",
    )
    (source / FILES["text_encoder"]).unlink()
    change_json(
        source / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
    )
    _convert(source, tmp_path / "back", to="diffusers")
    _same(states(tmp_path / "back"), states(tiny_folder()))


@FORMS
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_single_files_equal_their_diffusers_twin(tmp_path, second, ending):
    single, file = (
        single_file_of(tiny_folder(second=second), second=second),
        tmp_path / f"sd{ending}",
    )
    if ending == ".ckpt":
        torch.save({"state_dict": single, "global_step": 470000}, file)
    else:
        save_file({key: x.contiguous() for key, x in single.items()}, file)
    model, twin = open_weights(file), open_weights(tiny_folder(second=second))
    assert model.parts["unet"].config == twin.parts["unet"].config
    assert model.parts["vae"].config == twin.parts["vae"].config
    assert model.parts["text_encoder"].config == twin.parts["text_encoder"].config
    assert model.noise == twin.noise
    assert ("assuming v" in " ".join(model.notes)) == second
    if not second:
        write_diffusers(model, tmp_path / "back")
        _same(states(tmp_path / "back"), states(tiny_folder()))
    else:
        assert _opened(file, prediction=Prediction.EPS).noise.prediction_type is Prediction.EPS
        write_diffusers(_opened(file, tokenizer=tiny_folder() / "tokenizer"), tmp_path / "back")
        _same(states(tmp_path / "back"), states(tiny_folder(second=True)))
        StableDiffusionPipeline.from_pretrained(tmp_path / "back", local_files_only=True)


def test_averages_of_a_single_file(tmp_path):
    file = tmp_path / "sd.safetensors"
    single = {key: x.contiguous() for key, x in single_file_of(tiny_folder()).items()}
    save_file(single, file)
    plain, averaged = open_weights(file).parts["unet"], _opened(file, ema=True).parts["unet"]
    shapes = plain.network().shapes
    plain, averaged = flatten(plain.load(shapes)), flatten(averaged.load(shapes))
    for path, x in plain.items():
        np.testing.assert_array_equal(np.asarray(x) + np.float32(1), averaged[path])
    save_file({key: x for key, x in single.items() if not key.startswith("model_ema.")}, file)
    with pytest.raises(UserError, match="--ema asks for averaged weights"):
        _opened(file, ema=True)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: w.update({"model.stranger": torch.ones(1)}), "1 unknown keys: model.stranger"),
        (
            lambda w: [w.pop(k) for k in list(w) if k.startswith("first_stage_model.")],
            "holds no VAE",
        ),
        (
            lambda w: [w.pop(k) for k in list(w) if k.startswith("model.diff")],
            "no keys model.diffusion_model",
        ),
        (lambda w: w.pop("model.diffusion_model.out.2.weight"), "no out.2.weight"),
        (
            lambda w: w.pop("model.diffusion_model.input_blocks.1.0.in_layers.0.bias"),
            "1 missing: input_blocks.1.0.in_l",
        ),
        (
            lambda w: w.update({"first_stage_model.encoder.more": torch.ones(1)}),
            "1 unknown: encoder.more",
        ),
        (
            lambda w: w.update({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}),
            "has shape (1,)",
        ),
    ],
)
def test_single_files_that_do_not_fit_are_refused(tmp_path, edit, words):
    single = {key: x.contiguous() for key, x in single_file_of(tiny_folder()).items()}
    edit(single)
    save_file(single, tmp_path / "sd.safetensors")
    with pytest.raises(UserError) as error:
        _convert(tmp_path / "sd.safetensors", tmp_path / "out")
    assert words in str(error.value)
    assert "sd.safetensors" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sd.safetensors"]


@pytest.mark.parametrize(
    ("name", "temporal"),
    [
        ("unet", TemporalConfig(frames=3, position=PositionEncoding.LEARNED)),
        ("vae", TemporalDecoderConfig(places=(0, 2), window=4, position=PositionEncoding.NONE)),
    ],
    ids=["unet", "vae"],
)
def test_what_a_video_network_adds_travels_beside(tmp_path, name, temporal):
    source = open_weights(tiny_folder())
    part = source.parts[name]
    config = replace(part.config, temporal=temporal)
    network = part.kind.network(config)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: rng.standard_normal(x.shape, dtype=np.float32), network.shapes)
    made = replace(component_weights(part.kind, config, drawn), json=part.json)
    model = replace(source, parts={**source.parts, name: made})
    write_diffusers(model, tmp_path / "pytorch", dtype=np.float32)
    StableDiffusionPipeline.from_pretrained(tmp_path / "pytorch", local_files_only=True)
    _convert(tmp_path / "pytorch", tmp_path / "jax")
    _convert(tmp_path / "jax", tmp_path / "back")
    for folder in ("pytorch", "jax", "back"):
        again = open_weights(tmp_path / folder).parts[name]
        assert again.config == config
        jax.tree.map(np.testing.assert_array_equal, again.load(network.shapes), drawn)
    made = component_weights(part.kind, config, drawn)
    assert made.kind.read(made.json, where="f", temporal=temporal) == config
    change_json(tmp_path / "back" / f"{name}_temporal" / "config.json", position="some")
    with pytest.raises(UserError, match=rf"{name}_temporal/config.json.position='some'"):
        open_weights(tmp_path / "back")


def test_taesd_both_ways(tmp_path, shared_assets, capsys):
    source = shared_assets / "taesd"
    _convert(source, tmp_path / "jax")
    _convert(tmp_path / "jax", tmp_path / "back", dtype="bfloat16")
    for half in ("encoder", "decoder"):
        name = f"taesd_{half}.safetensors"
        theirs, ours = load_file(source / name), load_file(tmp_path / "back" / name)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(x, ours[key]) for key, x in theirs.items())
    _convert(source / "taesd_decoder.safetensors", tmp_path / "half")
    assert capsys.readouterr().out.startswith(f"writing a JAX folder to {tmp_path / 'jax'}\n")
    half = open_weights(tmp_path / "half").parts["vae"]
    assert half.lacks == ("encoder",)
    assert set(half.load(half.shapes())) == {"decoder"}
