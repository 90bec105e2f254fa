"""`evaluate` scores a work folder and weights alike, on the held-out scenes of a seed."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_experiment import tiny
from tiny_features import use_tiny_networks

from magicvideo_jax import convert, evaluate
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.held_out import open_held_out
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.scoring import evaluate_weights

pytestmark = pytest.mark.usefixtures("one_device")
METRICS = "--metrics=caption_accuracy,motion"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("video")
    run(tiny(), workdir)
    return workdir


def command(verb, *arguments: object, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["verb", *map(str, arguments)])
    verb.main()


def test_a_seed_has_scenes_of_its_own():
    experiment = tiny()
    other = replace(experiment, evaluate=replace(experiment.evaluate, seed=1))
    captions = [
        [one.prompt for one in open_held_out(one, frames).prompts(8)]
        for one in (experiment, other)
        for frames in (1, 2)
    ]
    assert len({tuple(some) for some in captions}) == 4


def test_a_work_folder_keeps_the_scores_that_no_other_file_is_given_for(
    trained, tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "metrics.json").unlink()
    command(evaluate, f"--workdir={workdir}", METRICS, monkeypatch=monkeypatch)
    usual = json.loads((workdir / "metrics.json").read_text())
    assert usual.keys() == {"clips", "caption_accuracy", "motion"}
    capsys.readouterr()
    more = (METRICS, "--seed=7", "--clips=3", f"--out={tmp_path}/scores.json")
    command(evaluate, f"--workdir={workdir}", *more, monkeypatch=monkeypatch)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["clips"] == 3
    assert scores["motion"] != usual["motion"]
    assert "caption_accuracy" in capsys.readouterr().out
    assert json.loads((workdir / "metrics.json").read_text()) == usual


def test_weights_are_scored_as_the_run_that_they_come_from(trained, tmp_path, monkeypatch):
    """And nothing is written where no file is asked for."""
    command(convert, trained, tmp_path / "weights", monkeypatch=monkeypatch)
    there = sorted(tmp_path.rglob("*"))
    how = {"clips": 2, "metrics": ("motion",), "seed": 5}
    scores = evaluate_weights(tmp_path / "weights", **how)
    assert scores == evaluate_weights(trained, **how)
    more = ("--metrics=motion", "--clips=2")
    command(evaluate, f"--weights={tmp_path}/weights", *more, monkeypatch=monkeypatch)
    assert sorted(tmp_path.rglob("*")) == there


def test_a_work_folder_is_compared_with_its_held_out_data(trained, tmp_path, monkeypatch, capsys):
    """And its scores stay in metrics.json, beside what is added."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    use_tiny_networks(monkeypatch)
    before = json.loads((workdir / "metrics.json").read_text())
    networks = ("--network=i3d=a.pt", "--network=clip=b")
    how = ("--metrics=fvd,clipsim", *networks, "--frames=2", "--samples=6")

    def compared() -> dict:
        command(evaluate, f"--workdir={workdir}", *how, monkeypatch=monkeypatch)
        return json.loads((workdir / "metrics.json").read_text())

    scores = compared()
    assert scores.items() >= before.items()
    assert scores["frechet_i3d_0a1b2c3d"]["protocol"]["name"] == "tats"
    assert "held-out drawn shapes, seed 0" in capsys.readouterr().out
    # The clips of a part are those of the whole: a killed run goes on in the middle.
    for file in sorted((workdir / "features").rglob("clips_000004*")):
        file.unlink()
    assert compared() == scores


@pytest.mark.parametrize(
    ("how", "said"),
    [({"clips": 0}, r"--clips=0: give at least 1"), ({"seed": -1}, r"--seed=-1: give a whole")],
)
def test_what_cannot_be_evaluated_is_one_line(trained, how, said):
    with pytest.raises(UserError, match=said):
        evaluate_weights(trained, **how)
