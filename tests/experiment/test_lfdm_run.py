"""Latent flow diffusion as two stages: runs, scores, animated pictures, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_experiment import MODEL
from tiny_lfdm import DIFFUSION, FLOW, tiny_flow, tiny_flow_diffusion

import magicvideo_jax as mv
from magicvideo_jax import sample
from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.class_names import NO_CLASS, ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.evaluation.first_frame_error import first_frame_error
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.pipeline import Pipeline, loaded_params
from magicvideo_jax.experiment.requests.clip_making import sample_clips
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, SourceRequest
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.scoring import evaluate_weights
from magicvideo_jax.experiment.stages.registry import check_stage, stage_of
from magicvideo_jax.models.lfdm.batch_norm import is_statistic
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.planning.programs import ProgramKind, build_program
from magicvideo_jax.training.flow_diffusion_objective import FlowDiffusionConfig
from magicvideo_jax.training.latent_flow_objective import LatentFlowLossConfig

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("flow")
    run(tiny_flow(), workdir)
    return workdir


@pytest.fixture(scope="module")
def diffusion(flow, tmp_path_factory) -> Path:
    """A run whose flow is made before its first step."""
    workdir = tmp_path_factory.mktemp("diffusion")
    experiment = tiny_flow_diffusion(
        str(flow), flow_diffusion=FlowDiffusionConfig(residual_scale=4.0)
    )
    data = replace(experiment.data, precompute_examples=4)
    run(replace(experiment, data=data), workdir)
    return workdir


@pytest.fixture(scope="module")
def pipe(diffusion) -> Pipeline:
    return mv.load(diffusion)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def params_of(workdir: Path) -> dict:
    folder = RunFolder(workdir)
    experiment = folder.experiment()
    return flatten(trained_params(folder, Networks(experiment.model), experiment))


def test_the_auto_encoders_statistics_move_and_its_reconstructions_are_measured(flow):
    params = params_of(flow)
    statistics = [path for path in params if is_statistic(path)]
    assert len(statistics) == 2 * len([path for path in params if path.endswith("norm.mean")]) + 4
    assert all(np.any(params[path] != (path.endswith("variance"))) for path in statistics)
    scores = json.loads((flow / "metrics.json").read_text())
    assert scores.keys() == {"prediction", "deformed"}
    assert {"clip_l1", "ssim", "motion", "colour"} <= scores["prediction"].keys()
    assert (flow / "previews" / "step_000002.png").is_file()


def test_the_diffusion_trains_its_u_net_alone_and_is_scored_from_first_frames(flow, diffusion):
    before, after = params_of(flow), params_of(diffusion)
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x)
    np.testing.assert_allclose(after["class_vectors.embedding"], 2 * np.eye(3, 4))
    scores = json.loads((diffusion / "metrics.json").read_text())
    assert scores["clips"] == 2
    assert {"motion", "colour", "shape"} <= scores["caption_accuracy"].keys()
    assert scores["first_frame_error"].keys() == {"l1", "l1_of_repetition"}
    again = evaluate_weights(diffusion, metrics=("first_frame_error",))
    assert again["first_frame_error"]["l1"] == pytest.approx(
        scores["first_frame_error"]["l1"], rel=1e-3
    )


def test_a_picture_is_animated_by_a_word(diffusion, pipe, picture, tmp_path, monkeypatch):
    out = tmp_path / "frames"
    arguments = [f"--workdir={diffusion}", f"--image={picture}", "--prompt=Growing", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", ["sample", *arguments])
    sample.main()
    assert len(list(out.glob("*.png"))) == 4
    source = SourceRequest(image=str(picture))
    clips = [
        sample_clips(pipe, ClipRequest(word, seed=1), source).clips[0]
        for word in ("left", "growing")
    ]
    assert clips[0].shape == (4, 32, 32, 3)
    assert not np.array_equal(*clips)


def test_bad_requests_take_one_line(diffusion, pipe, picture, tmp_path):
    small = tmp_path / "small.png"
    Image.new("RGB", (40, 30)).save(small)
    other, fits = (SourceRequest(image=str(path)) for path in (small, picture))
    for request, source, words in (
        (ClipRequest("left"), other, r"--image=.*small\.png: has 40 x 30 pixels, .* 32 x 32: resize"),
        (ClipRequest("waving"), fits, r"--prompt=waving: no class of .*: give one of left, right, growing"),
        (ClipRequest("left"), SourceRequest(), r"--image: this model animates a picture: give one"),
        (ClipRequest("left", size=(30, 40)), other, r"--size=30x40: give multiples of 8, which its"),
        (ClipRequest("left", context_frames=2, context_overlap=1), fits, r"--context_frames: this model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as error:
            sample_clips(pipe, request, source)
        assert "\n" not in str(error.value)
    moving = KnownFrames(np.zeros((1, 4, 32, 32, 3), np.uint8), np.ones((1, 4), bool))
    with pytest.raises(UserError, match=r"--image: .* give one, and no --video"):
        pipe.many(["left"], pipe.experiment.sample, start=moving)
    with pytest.raises(UserError, match="trained an auto-encoder"):
        mv.load(Path(RunFolder(diffusion).experiment().init_from))


@pytest.fixture(scope="module")
def files(flow, diffusion, tmp_path_factory) -> dict[str, Path]:
    """Both runs as LFDM's files, and the auto-encoder again from the second run."""
    folder = tmp_path_factory.mktemp("files")
    asked = {
        "flow": (flow, "lfdm_flow"),
        "same": (diffusion, "lfdm_flow"),
        "diffusion": (diffusion, "lfdm_diffusion"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, (source, form) in asked.items():
            target = folder / f"{name}.pth"
            patch.setattr(sys, "argv", ["convert", str(source), str(target), f"--to={form}"])
            convert()
    return {name: folder / f"{name}.pth" for name in asked}


def test_its_sampling_is_planned_with_clips_of_flow():
    experiment = tiny_flow_diffusion("scratch")
    networks, mesh = Networks(experiment.model), make_mesh(experiment.mesh)
    program = build_program(ProgramKind.SAMPLE, experiment, networks, mesh)
    assert program.inputs["ids"].shape == (2, 1)
    (clips,) = program.trace().jaxpr.out_avals
    assert (clips.shape, clips.dtype) == ((2, 4, 32, 32, 3), np.uint8)


def test_both_runs_become_lfdms_files(files):
    states = {name: torch.load(file, weights_only=True) for name, file in files.items()}
    assert states["flow"].keys() == {"generator", "region_predictor", "bg_predictor"}
    assert states["diffusion"].keys() == {"diffusion"}
    for name, state in states["flow"].items():
        assert all(torch.equal(x, states["same"][name][key]) for key, x in state.items())


def test_a_run_begins_with_lfdms_files(files, diffusion):
    """Padding is the config's, which files do not say; the U-Net brings its noise schedule."""
    experiment = tiny_flow_diffusion(str(files["flow"]), unet_from=str(files["diffusion"]))
    unet, noise = replace(DIFFUSION.flow_unet, groups=8), replace(LFDM_NOISE, max_beta=0.9)
    experiment = replace(experiment, model=replace(DIFFUSION, flow_unet=unet, noise=noise))
    initial = initial_of(experiment)
    model = initial.fitted(experiment.model)
    assert model.latent_flow.padded_regions
    assert (model.flow_unet, model.noise) == (unet, LFDM_NOISE)
    here, there = flatten(loaded_params(initial, Networks(model))), params_of(diffusion)
    assert {path.split(".")[0] for path in here} == {"latent_flow", "flow_unet"}
    for path, x in here.items():
        np.testing.assert_array_equal(x, there[path], err_msg=path)


def test_the_noise_schedule_is_that_of_the_diffusions_config_or_of_its_u_net(flow, diffusion):
    noise = replace(LFDM_NOISE, prediction_type=Prediction.X0, dynamic_threshold=None)
    model = replace(DIFFUSION, noise=noise)
    for workdir, expected in ((flow, noise), (diffusion, LFDM_NOISE)):
        experiment = replace(tiny_flow_diffusion(str(workdir)), model=model)
        assert initial_of(experiment).fitted(model).noise == expected


def test_networks_of_flow_are_no_beginning_for_other_stages(flow):
    with pytest.raises(UserError, match=r"config\.init_from=.*stage=video has no use for"):
        initial_of(replace(tiny_flow(), stage="video", model=MODEL, init_from=str(flow)))
    with pytest.raises(UserError, match=r"config\.init_from=scratch: holds no auto-encoder"):
        initial_of(tiny_flow_diffusion("scratch"))


def test_what_does_not_fit_together_is_named():
    base, second = tiny_flow(), tiny_flow_diffusion("scratch")
    unet, vectors = DIFFUSION.flow_unet, DIFFUSION.class_vectors

    def sized(**parts) -> Experiment:
        return replace(second, model=replace(DIFFUSION, **parts))

    for experiment, words in (
        (replace(base, model=replace(FLOW, latent_flow=None)), r"config\.model\.latent_flow: "),
        (replace(base, latent_flow=LatentFlowLossConfig()), r"config\.latent_flow\.vgg: nothing compares"),
        (replace(base, data=replace(base.data, size=20)), r"config\.data\.size=20: give a multiple of 8"),
        (replace(base, data=replace(base.data, frames=1)), r"config\.data\.frames=1: "),
        (replace(base, latent_flow=LatentFlowLossConfig(vgg="vgg19.pth")), r"config\.data\.size=32: features of VGG"),
        (replace(second, data=replace(second.data, frames=1)), r"config\.data\.frames=1: "),
        (replace(second, data=replace(second.data, motion_captions=False)), r"config\.data\.motion_captions=False"),
        (replace(base, model=DIFFUSION), r"config\.model\.trained: stage=latent_flow trains"),
        (replace(second, model=replace(FLOW, trained=DIFFUSION.trained)), r"config\.model\.flow_unet: "),
        (sized(flow_unet=replace(unet, feature=9)), r"flow_unet\.feature=9: .* 8 channels"),
        (sized(flow_unet=replace(unet, condition=9)), r"class_vectors\.width=4: give 9"),
        (sized(class_vectors=replace(vectors, classes=9)), r"class_vectors\.classes=9: there are 3"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            check_stage(experiment)
    assert stage_of(base).notes(base)[0].startswith("loss        without features of VGG-19")


def test_names_of_classes_are_read_whatever_their_case():
    names = ClassNames(("I Have Command", "Stop"))
    assert names(["i have  command", "STOP", ""]).tolist() == [[0], [1], [NO_CLASS]]
    with pytest.raises(UserError, match="caption=go: no class"):
        names(["go"])
    with pytest.raises(UserError, match="differ in more than case"):
        FlowDiffusionConfig(classes=("Stop", "stop "))


def test_standing_still_has_the_error_of_repetition():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3)).astype(np.uint8)
    still = np.repeat(clips[:, :1], 3, axis=1)
    scores = first_frame_error(still, clips)
    assert scores["l1"] == scores["l1_of_repetition"] > 0
    assert first_frame_error(clips, clips)["l1"] == 0
