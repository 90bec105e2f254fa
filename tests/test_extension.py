"""A stage, a metric and a weight format are added without touching the package, and every command knows them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import tiny
from toy_extension import installed, write_archive

import magicvideo_jax as mv
from magicvideo_jax.convert import main as convert
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.opening.run_weights import open_any_weights
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.scoring import evaluate_weights
from magicvideo_jax.planning.program_plan import quick_plan
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.topology import parse_topology

pytestmark = pytest.mark.usefixtures("extension", "one_device")
PROMPT = "a red circle moving left"


def standing(**changes) -> Experiment:
    experiment = replace(tiny("video"), stage="standing", **changes)
    return replace(experiment, train=replace(experiment.train, preview_every=2))


@pytest.fixture(scope="module")
def extension():
    with installed():
        yield


@pytest.fixture(scope="module")
def trained(extension, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("standing")
    run(standing(), workdir)
    return workdir


@pytest.fixture(scope="module")
def archive(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "tokenizer").symlink_to(trained / "tokenizer")
    write_archive(open_any_weights(trained, argument="SOURCE"), folder / "weights.npz")
    return folder / "weights.npz"


def test_the_stage_trains_and_previews(trained):
    assert {path.name for path in (trained / "previews").iterdir()} == {
        f"step_{step:06d}.{end}" for step in (2, 4) for end in ("png", "mp4")
    }
    assert json.loads((trained / "metrics.json").read_text()).keys() == {"clips", "restlessness"}


def test_it_resumes(trained):
    longer = standing()
    run(replace(longer, train=replace(longer.train, steps=6)), trained)
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def test_it_is_evaluated_by_the_metric_and_by_others(trained):
    scores = evaluate_weights(trained, metrics=("restlessness", "motion"))
    assert scores.keys() == {"clips", "restlessness", "motion"}
    # Of two frames the first is at rest.
    change = scores["motion"]["frame_difference"]
    assert 2 * scores["restlessness"] == pytest.approx(change, rel=1e-3)


@pytest.mark.parametrize("kind", list(ProgramKind))
def test_it_is_planned(kind):
    plan = quick_plan(standing(), parse_topology("v5e:2x4"), kind)
    assert plan.chips == 8
    assert plan.parts["parameters"] > 0


def test_it_samples_from_a_run_and_from_the_weight_format(trained, archive):
    clip = mv.load(trained)(PROMPT, seed=3)
    assert clip.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(clip, mv.load(archive)(PROMPT, seed=3, steps=2))


def test_the_format_converts(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert", str(archive), str(tmp_path / "there")])
    convert()
    assert (tmp_path / "there" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "there" / "unet_temporal" / "config.json").is_file()


def test_a_run_begins_with_it(archive, tmp_path, capsys):
    longer = standing(init_from=str(archive))
    run(replace(longer, train=replace(longer.train, steps=2, save_every=2)), tmp_path)
    assert f"{archive}: 0 of them" not in capsys.readouterr().err
