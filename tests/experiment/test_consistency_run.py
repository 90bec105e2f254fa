"""A student is distilled from a text-to-video model, sampled with guidance inside, and taken to diffusers and back."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_experiment import MODEL, tiny
from tiny_weights import random_model, written

from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.pipeline import load
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.stages.registry import check_stage
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler
from magicvideo_jax.training.optimizer import Freeze, OptimConfig

pytestmark = pytest.mark.usefixtures("one_device")
TEACHER = replace(MODEL, unet=replace(MODEL.unet, temporal=TemporalConfig(frames=2)))
STUDENT = replace(TEACHER, unet=replace(TEACHER.unet, guidance_channels=8))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("weights")
    build_vocabulary(["a", "red", "circle"], place / "tokenizer", length=MODEL.text.tokens)
    size = CaptionTokenizer(place / "tokenizer", length=MODEL.text.tokens).vocabulary_size
    model = replace(TEACHER, text=replace(MODEL.text, vocabulary=size))
    return written(place / "video", model, random_model(model), place / "tokenizer")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("student")
    sample = SampleConfig(sampler=Sampler.LCM, steps=2, guidance=4.0)
    run(tiny("consistency", init_from=teacher, model=STUDENT, sample=sample), workdir)
    return workdir


def test_the_student_trains_and_its_teacher_does_not(teacher, student):
    folder = RunFolder(student)
    there = folder.experiment()
    after = flatten(trained_params(folder, Networks(there.model), there))
    for path, before in flatten(load(teacher).params["unet"]).items():
        assert not np.array_equal(before, after[f"unet.{path}"]), path
        np.testing.assert_array_equal(before, after[f"teacher.{path}"])
    assert np.any(after["unet.time_embedding.cond_proj.kernel"])  # it began at zero


def test_the_scale_of_guidance_is_told_and_takes_no_second_pass(student):
    pipeline = load(student)
    weak, strong = (pipeline("a red circle", guidance=scale, seed=3) for scale in (2.0, 8.0))
    assert weak.shape == strong.shape
    assert not np.array_equal(weak, strong)


def test_it_goes_to_diffusers_and_back(student, tmp_path, monkeypatch):
    folder, back = tmp_path / "diffusers", tmp_path / "back"
    for source, out, form in ((student, folder, "diffusers"), (folder, back, "jax")):
        monkeypatch.setattr("sys.argv", ["convert", str(source), str(out), f"--to={form}"])
        convert()
    assert json.loads((folder / "unet/config.json").read_text())["time_cond_proj_dim"] == 8
    first, second = (load(place) for place in (student, back))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert second.experiment.sample.sampler is Sampler.LCM


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": TEACHER}, "config.model.unet.guidance_channels=0"),
        ({"model": replace(STUDENT, trained=(Component.TEXT,))}, "config.model.trained"),
        ({"optim": OptimConfig(warmup=1, freeze=Freeze.TEMPORAL)}, "optim.freeze"),
    ],
)
def test_what_a_student_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        check_stage(tiny("consistency", **{"model": STUDENT, **changes}))
