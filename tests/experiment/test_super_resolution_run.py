"""Super-resolution as a stage: a run is measured beside bicubic, upscales clips, and is converted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiment import MODEL, tiny

import magicvideo_jax as mv
from magicvideo_jax import sample
from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.bicubic import enlarge
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.experiment.cascade.clip_stream import SampledClips
from magicvideo_jax.experiment.cascade.clip_upscaling import ClipUpscaling, load_upscaling
from magicvideo_jax.experiment.config import DataConfig, EvaluateConfig
from magicvideo_jax.experiment.requests.clip_making import (
    check_model_request,
    open_refiners,
    refine_clips,
)
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, ModelRequest
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.scoring import evaluate_weights
from magicvideo_jax.experiment.stages.registry import check_fitted, check_stage
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.planning.program_plan import quick_plan
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.sampling.frame_noise import FrameNoise
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.tiles import TileConfig
from magicvideo_jax.training.optimizer import OptimConfig
from magicvideo_jax.training.super_resolution_objective import SuperResolutionConfig

pytestmark = pytest.mark.usefixtures("one_device")

SAMPLE = SampleConfig(
    steps=2,
    guidance=1.0,
    frame_noise=FrameNoise.SHARED,
    picture_noise=20,
    tiles=TileConfig(side=8, overlap=4),
)
LARGER = tiny(
    "super_resolution",
    data=DataConfig(frames=3, size=32),
    super_resolution=SuperResolutionConfig(crop=16, most_noise=350),
    sample=SAMPLE,
    evaluate=EvaluateConfig(clips=2, batch_size=2),
)
PLAIN = replace(
    LARGER,
    optim=OptimConfig(warmup=1, lr=0.03, ema_decay=0.0),  # far from the zeros it begins with
    model=replace(
        LARGER.model,
        noise=replace(LARGER.model.noise, prediction_type=Prediction.X0),
        vae=replace(LARGER.model.vae, scaling=16.0),
        unet=replace(
            LARGER.model.unet,
            levels=(UNetLevelConfig(8, 0),),
            middle_heads=0,
        ),
    ),
)
CLIP = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    run(PLAIN, workdir)
    return workdir


@pytest.fixture(scope="module")
def refiner(trained) -> ClipUpscaling:
    return load_upscaling(trained)


def test_the_run_is_measured_beside_bicubic(trained):
    scores = json.loads((trained / "metrics.json").read_text())
    assert scores["clips"] == 2
    assert {"psnr", "ssim", "difference_error"} <= scores["upscaler"].keys()
    assert scores["upscaler"].keys() == scores["bicubic"].keys()
    assert scores["bicubic"]["psnr"] > 15
    assert (trained / "previews" / "step_000004.png").is_file()
    assert evaluate_weights(trained, metrics=("psnr",))["upscaler"] == pytest.approx(
        {"psnr": scores["upscaler"]["psnr"]}, rel=1e-3
    )


def noise_of(level: int) -> SampleConfig:
    return replace(SAMPLE, picture_noise=level)


def test_alike_frames_come_out_alike_in_all_parts_of_a_clip(refiner):
    """Eight frames are one part, and the ninth another: they share what the network is given."""
    assert (refiner.sample, refiner.negative_prompt) == (SAMPLE, "")
    still = np.repeat(CLIP[None], 9, axis=0)
    clips = np.stack([still, 255 - still])
    made = refine_clips(SampledClips(clips, fps=6.0), ClipRequest("a red circle"), refiner)
    assert made.clips.shape == (2, 9, 32, 48, 3)
    assert made.fps == 6
    distance = np.abs(made.clips.astype(int) - made.clips[:, :1])
    assert distance.max() <= 1
    assert not np.array_equal(made.clips[0, 0], made.clips[1, 0])
    one = refiner.many(clips[:1, :1], ["a red circle"], seed=1)
    assert not np.array_equal(one[0, 0], made.clips[0, 0])
    own = replace(SAMPLE, frame_noise=FrameNoise.OWN)
    flickers = refiner.many(clips[:1, :2], ["a red circle"], sample=own)
    assert not np.array_equal(flickers[0, 0], flickers[0, 1])
    noisier = refiner.many(clips[:1, :1], ["a red circle"], sample=noise_of(300))
    quieter = refiner.many(clips[:1, :1], ["a red circle"], sample=noise_of(0))
    assert np.abs(noisier[0, 0].astype(int) - quieter[0, 0]).max() > 1


def test_a_network_that_predicts_nothing_is_bicubic_resizing(trained):
    refiner = load_upscaling(trained)
    refiner.params = jax.tree.map(jnp.zeros_like, refiner.params)
    made = refiner.many(CLIP[None, None], ["a"])
    expected = np.asarray(enlarge(jnp.asarray(CLIP[None]), 4)).astype(int)
    assert np.abs(made[0] - expected).max() <= 1  # the noise of the last step


@pytest.mark.parametrize("to", ["jax", "diffusers"])
def test_what_is_converted_of_it_upscales_alike(trained, refiner, tmp_path, monkeypatch, to):
    arguments = ["convert", str(trained), str(tmp_path / "there"), f"--to={to}"]
    monkeypatch.setattr(sys, "argv", arguments)
    convert()
    assert not list((tmp_path / "there" / "vae").glob("*.safetensors"))
    there, here = load_upscaling(tmp_path / "there"), refiner
    assert there.experiment.model == here.experiment.model
    assert (there.sample, there.negative_prompt) == (here.sample, here.negative_prompt)
    clips = CLIP[None, None]
    np.testing.assert_array_equal(there.many(clips, ["a"]), here.many(clips, ["a"]))


def test_a_tile_of_the_command_line_takes_the_place_of_that_of_the_weights(trained, monkeypatch):
    asked = ModelRequest("embedded", upscale=str(trained), upscale_tile=10)
    (refiner,) = open_refiners(asked)
    assert refiner.sample.tiles == TileConfig(10, 4)
    (refiner,) = open_refiners(replace(asked, upscale_tile=0))
    assert refiner.sample.tiles.side == 0
    line = ["sample", "--prompt=a", "--out=a.mp4", "--upscale=there", "--upscale_tile=10"]
    monkeypatch.setattr(sys, "argv", line)
    read = sample._request(ModelRequest, sample._arguments(), lora=())
    assert (read.upscale, read.upscale_tile) == ("there", 10)
    with pytest.raises(UserError, match="--upscale_tile=3: give 0"):
        check_model_request(replace(asked, upscale_tile=3))


@pytest.mark.parametrize("kind", list(ProgramKind))
def test_it_is_planned(kind):
    plan = quick_plan(PLAIN, parse_topology("v5e:2x4"), kind)
    assert plan.parts["inputs"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": DataConfig(precompute_examples=8, size=32)}, "config.data.precompute_examples=8"),
        ({"data": DataConfig(joint_images=True)}, "config.data.joint_images=True"),
        (
            {"super_resolution": SuperResolutionConfig(crop=18)},
            "crop=18: give 0, or a multiple of 4",
        ),
        ({"super_resolution": SuperResolutionConfig(crop=64)}, "up to config.data.size=32"),
        (
            {"super_resolution": SuperResolutionConfig(most_noise=400)},
            "most_noise=400: config.model.unet.noise_levels=351 is too few; give 401 or more",
        ),
        (
            {"super_resolution": SuperResolutionConfig(most_noise=10)},
            "config.sample.picture_noise=20: the network learns levels up to .*most_noise=10",
        ),
        (
            {"model": replace(LARGER.model, unet=MODEL.unet)},
            "config.model.unet.noise_levels=0 is too few",
        ),
        (
            {
                "model": replace(
                    LARGER.model,
                    unet=replace(LARGER.model.unet, temporal=TemporalConfig(frames=2)),
                )
            },
            "config.model.unet.temporal: super-resolution learns from single images",
        ),
    ],
)
def test_what_is_no_super_resolution_is_refused(changes: dict, words: str):
    with pytest.raises(UserError, match=words) as error:
        check_stage(replace(LARGER, **changes))
    assert "\n" not in str(error.value)


def test_channels_that_do_not_fit_are_refused():
    unet = replace(LARGER.model.unet, channels_in=48)
    words = r"unet\.channels_in=48: give 51, as config\.model\.vae\.latent_channels \+ 3 is"
    with pytest.raises(UserError, match=words):
        check_fitted(replace(LARGER, model=replace(LARGER.model, unet=unet)))


def test_weights_of_another_task_are_refused(trained, tmp_path):
    for refused, words in (
        (lambda: load_upscaling("embedded"), "--upscale=embedded: a U-Net for text to image"),
        (lambda: mv.load(trained), "--workdir=.*a U-Net for super-resolution.*as --upscale"),
        (
            lambda: run(replace(LARGER, init_from="embedded"), tmp_path),
            "config.init_from=embedded: a U-Net for text to image or video, not for super-res",
        ),
        (
            lambda: run(tiny("image", init_from=str(trained)), tmp_path),
            "a U-Net for super-resolution, not for text to image",
        ),
    ):
        with pytest.raises(UserError, match=words) as error:
            refused()
        assert "\n" not in str(error.value)
