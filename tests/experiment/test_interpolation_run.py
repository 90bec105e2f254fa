"""Interpolation: a network learns what lies between two frames, and makes 4 (t - 1) + 1 frames of t."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import MODEL, tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.shape_clips import ShapeClips
from magicvideo_jax.experiment.cascade.clip_stream import SampledClips
from magicvideo_jax.experiment.cascade.frame_interpolation import load_interpolation
from magicvideo_jax.experiment.config import DataConfig
from magicvideo_jax.experiment.held_out import open_held_out
from magicvideo_jax.experiment.requests.clip_making import refine_clips
from magicvideo_jax.experiment.requests.clip_request import ClipRequest
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.stages.registry import check_stage
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.training.known_frame_patterns import KnownFramesConfig
from magicvideo_jax.training.objectives import DenoisingConfig

pytestmark = pytest.mark.usefixtures("one_device")

FRAMES = DataConfig(frames=5, size=16, frame_rate_ratio=4.0)
BETWEEN = tiny(
    "interpolation",
    model=replace(
        MODEL, unet=replace(MODEL.unet, temporal=TemporalConfig(frames=5, known_frames=True))
    ),
    data=FRAMES,
    denoising=DenoisingConfig(known_frames=KnownFramesConfig(first_and_last=1.0)),
    sample=SampleConfig(steps=2, guidance=1.0),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    run(BETWEEN, workdir)
    return workdir


def test_clips_are_drawn_at_four_times_the_rate():
    usual, quick = (
        ShapeClips(0, frames=5, size=16),
        ShapeClips(0, frames=5, size=16, rate_ratio=4.0),
    )
    assert quick[3].fps == 4 * usual[3].fps
    np.testing.assert_array_equal(quick[3].pixels[4], usual[3].pixels[1])
    held_out = open_held_out(BETWEEN, 5)
    slow = open_held_out(replace(BETWEEN, data=replace(FRAMES, frame_rate_ratio=1.0)), 5)
    assert held_out.prompts(1)[0].fps == 4 * slow.prompts(1)[0].fps
    np.testing.assert_array_equal(held_out.clips(2)[:, 4], slow.clips(2)[:, 1])


def test_the_run_is_measured_by_the_frames_it_inserts(trained):
    scores = json.loads(RunFolder(trained).metrics.read_text())
    assert set(scores["inserted_frames"]) == {"psnr", "psnr_of_blending", "psnr_of_repetition"}


def test_keyframes_come_through_and_all_pairs_are_filled(trained):
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    refiner = load_interpolation("embedded", unet=trained)
    made = refine_clips(SampledClips(clips, fps=6.0), ClipRequest("a red circle"), refiner)
    assert made.clips.shape == (2, 13, 16, 16, 3)
    assert made.fps == 24
    np.testing.assert_array_equal(made.clips[:, ::4], clips)
    inserted = made.clips.reshape(2, -1)
    assert not np.array_equal(*inserted)
    one = refine_clips(SampledClips(clips[:1, :2], fps=6.0), ClipRequest("a red circle"), refiner)
    assert np.abs(one.clips[0, 1:4].astype(int) - made.clips[0, 1:4]).max() <= 1


def test_a_single_frame_has_nothing_between(trained):
    clip = np.zeros((1, 1, 16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="--interpolate: a clip of 1 frame"):
        load_interpolation("embedded", unet=trained).many(clip, ["a"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": replace(FRAMES, frames=4)}, "config.data.frames=4: give 5"),
        (
            {"denoising": DenoisingConfig(known_frames=KnownFramesConfig(first=1.0))},
            "config.denoising.known_frames.first_and_last=0: give 1",
        ),
    ],
)
def test_what_is_no_interpolation_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        check_stage(replace(BETWEEN, **changes))
