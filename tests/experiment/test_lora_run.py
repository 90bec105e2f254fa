"""A run that trains a LoRA: resumed bit for bit, sampled merged, and taken to other programs in their own keys."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_lora_training import lora_experiment
from tiny_experiment import MODEL
from tiny_weights import random_model, written

import magicvideo_jax as mv
from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.networks import Networks, model_params
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.models.temporal import MotionModuleConfig, TemporalConfig, TemporalMixing
from magicvideo_jax.training.checkpoint import Checkpoints, Saved
from magicvideo_jax.training.lora import LoRALayers
from magicvideo_jax.training.state import TrainState
from magicvideo_jax.weights.lora.lora_merge import with_loras
from magicvideo_jax.weights.open import open_weights

pytestmark = pytest.mark.usefixtures("one_device")

PROMPT = "a red circle moving left"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """AnimateDiff in small: motion modules, one in the middle, and random weights everywhere."""
    place = tmp_path_factory.mktemp("weights")
    build_vocabulary(PROMPT.split(), place / "tokenizer", length=MODEL.text.tokens)
    size = CaptionTokenizer(place / "tokenizer", length=MODEL.text.tokens).vocabulary_size
    temporal = TemporalConfig(
        frames=2,
        adaptors=False,
        mixing=TemporalMixing.NONE,
        fps=False,
        motion=MotionModuleConfig(heads=2, in_middle=True),
    )
    model = replace(
        MODEL,
        unet=replace(MODEL.unet, temporal=temporal),
        text=replace(MODEL.text, vocabulary=size),
    )
    return written(place / "motion", model, random_model(model), place / "tokenizer")


def motion_experiment(weights: str, steps: int = 4):
    experiment = lora_experiment(LoRALayers.TEMPORAL, init_from=weights)
    temporal = open_weights(weights).parts["unet"].config.temporal
    model = replace(experiment.model, unet=replace(MODEL.unet, temporal=temporal))
    train = replace(experiment.train, steps=steps)
    evaluate = replace(experiment.evaluate, metrics=("motion",))
    return replace(experiment, model=model, train=train, evaluate=evaluate)


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("lora")
    run(motion_experiment(weights), workdir)
    return workdir


def params_of(workdir: Path):
    folder = RunFolder(workdir)
    experiment = folder.experiment()
    return flatten(trained_params(folder, Networks(experiment.model), experiment))


def base_of(weights: str):
    parts = open_weights(weights).parts
    return flatten({name: part.load(part.shapes()) for name, part in parts.items()})


def test_a_run_saves_factors_and_samples_merged_kernels(trained, weights):
    averaged, frozen = Saved(trained).parameter_paths()
    assert averaged
    assert all(path.endswith((".lora_down", ".lora_up")) for path in averaged)
    base, params = base_of(weights), params_of(trained)
    assert frozen == base.keys() == params.keys()
    layers = {path.rpartition(".")[0] for path in averaged}
    changed = {path for path, x in params.items() if not np.array_equal(x, base[path])}
    assert changed == {f"{layer}.kernel" for layer in layers}
    assert (trained / "previews" / "step_000004.png").is_file()
    again = started(motion_experiment(weights), trained)
    assert int(again.step) == 4
    merged = flatten(model_params(again.ema, again.frozen, motion_experiment(weights)))
    for path, x in merged.items():
        np.testing.assert_array_equal(x, params[path], err_msg=path)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits(trained, weights, tmp_path):
    run(motion_experiment(weights, steps=2), tmp_path)
    run(motion_experiment(weights), tmp_path)
    whole, again = (started(motion_experiment(weights), folder) for folder in (trained, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def started(experiment, workdir: Path) -> TrainState:
    """The state with which a run begins or goes on."""
    folder = RunFolder(workdir)
    folder.create()
    with closing(Checkpoints(workdir)) as checkpoints:
        return jax.device_get(set_up_or_resume(experiment, folder, checkpoints).state)


def run_convert(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    try:
        convert()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def with_lora(weights: str, file: Path):
    parts = with_loras(open_weights(weights).parts, [str(file)], argument="--lora")
    return flatten({name: part.load(part.shapes()) for name, part in parts.items()})


def test_what_is_written_is_read_back_from_every_form(trained, weights, tmp_path, monkeypatch):
    params, read = params_of(trained), []
    for form in ("kohya_lora", "diffusers_lora", "motion_lora"):
        file = tmp_path / f"{form}.safetensors"
        assert run_convert(monkeypatch, trained, file, f"--to={form}") == 0
        read.append(with_lora(weights, file))
        for path, x in params.items():
            np.testing.assert_allclose(read[-1][path], x, rtol=1e-5, atol=1e-6, err_msg=path)
    for path, x in read[0].items():
        np.testing.assert_array_equal(read[1][path], x, err_msg=path)
        np.testing.assert_array_equal(read[2][path], x, err_msg=path)


def test_keys_are_those_of_the_programs(trained, tmp_path, monkeypatch):
    keys = {}
    for form in ("kohya_lora", "diffusers_lora", "motion_lora"):
        file = tmp_path / f"{form}.safetensors"
        assert run_convert(monkeypatch, trained, file, f"--to={form}", "--dtype=float16") == 0
        keys[form] = load_file(file)
    module = "mid_block.motion_modules.0"
    inside = f"{module}.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
    assert f"{inside}.to_out_lora.up.weight" in keys["motion_lora"]
    assert (
        f"unet.{module}.transformer_blocks.0.attn2.to_out.0.lora_B.weight" in keys["diffusers_lora"]
    )
    flat = f"lora_unet_{module}.transformer_blocks.0.attn2.to_out.0".replace(".", "_")
    assert keys["kohya_lora"][f"{flat}.alpha"] == 1.0
    assert keys["kohya_lora"][f"{flat}.lora_down.weight"].shape == (2, 16)
    assert len(keys["kohya_lora"]) == 3 / 2 * len(keys["motion_lora"])
    assert {x.dtype for x in keys["motion_lora"].values()} == {np.dtype(np.float16)}


def test_a_lora_is_written_only_of_a_run_that_trains_one(
    trained, weights, tmp_path, monkeypatch, capsys
):
    for arguments, said in (
        ((trained, tmp_path / "folder", "--to=kohya_lora"), "give the name of a .safetensors file"),
        ((weights, tmp_path / "a.safetensors", "--to=kohya_lora"), "work folder"),
        ((trained, trained / "config.safetensors", "--to=motion_lora", "--lora=a"), "--lora"),
    ):
        assert run_convert(monkeypatch, *arguments) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_lora_files_are_part_of_what_a_run_begins_with(trained, weights, tmp_path, monkeypatch):
    """`config.lora` is added to the frozen weights, and a rerun may spell its path in another way only."""
    file = tmp_path / "motion.safetensors"
    assert run_convert(monkeypatch, trained, file, "--to=motion_lora") == 0
    experiment = replace(motion_experiment(weights), lora=(f"{file}:0.5",))
    expected, folder = with_lora(weights, f"{file}:0.5"), RunFolder(tmp_path / "run")
    for path, x in flatten(started(experiment, folder.path).frozen).items():
        np.testing.assert_array_equal(x, expected[path], err_msg=path)
    again = replace(experiment, lora=(f"{tmp_path}/./motion.safetensors:0.50",))
    assert folder.continued(again, done=0).lora == again.lora
    with pytest.raises(UserError, match=r"config\.lora="):
        folder.continued(replace(experiment, lora=(f"{file}:1",)), done=0)


def test_a_run_from_nothing_has_no_weights_for_a_lora():
    with pytest.raises(UserError, match=r"config\.lora=a\.pt: there is no U-Net to add it to"):
        initial_of(lora_experiment(lora=("a.pt",)))


def test_sampling_takes_lora(weights, trained, tmp_path, monkeypatch):
    file = tmp_path / "motion.safetensors"
    assert run_convert(monkeypatch, trained, file, "--to=motion_lora") == 0
    once, base = with_lora(weights, file), base_of(weights)
    sampled = flatten(mv.load(weights, lora=(f"{file}:3", f"{file}:-1")).params)
    for path, x in sampled.items():
        twice = base[path] + 2 * (once[path] - base[path])
        np.testing.assert_allclose(x, twice, rtol=1e-5, atol=1e-5, err_msg=path)
