"""A text-to-video network learns to be told of frames: it begins as it was, and then starts from pictures and clips."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence
from tiny import quick, random_params
from tiny_experiment import MODEL, tiny
from tiny_weights import random_model, written
from verbs_in_process import run_main

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Condition
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.diffusion.known_frames import known_frame_channels
from magicvideo_jax.experiment.config import Component, DataConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.pipeline import load
from magicvideo_jax.experiment.requests.clip_making import sample_clips
from magicvideo_jax.experiment.requests.clip_request import NO_SOURCE, ClipRequest, SourceRequest
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.stages.registry import check_stage
from magicvideo_jax.media.clip_files import save_video
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.training.known_frame_patterns import KnownFramesConfig
from magicvideo_jax.training.objectives import DenoisingConfig

pytestmark = pytest.mark.usefixtures("one_device")
T = 4


def video(**changes):
    return replace(MODEL, unet=replace(MODEL.unet, temporal=TemporalConfig(frames=T, **changes)))


PLAIN, TOLD = video(), video(known_frames=True)
POLICY = KnownFramesConfig(first=0.5, beginning=0.5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Weights of a text-to-video network that is told of no frames."""
    place = tmp_path_factory.mktemp("weights")
    build_vocabulary(["a", "red", "circle"], place / "tokenizer", length=MODEL.text.tokens)
    size = CaptionTokenizer(place / "tokenizer", length=MODEL.text.tokens).vocabulary_size
    model = replace(PLAIN, text=replace(MODEL.text, vocabulary=size))
    return written(place / "video", model, random_model(model), place / "tokenizer")


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    experiment = tiny(
        init_from=weights, model=TOLD, data=DataConfig(frames=T, size=16, late_fraction=0.5)
    )
    denoising = DenoisingConfig(known_frames=POLICY)
    run(replace(experiment, denoising=denoising), workdir)
    return workdir


def test_a_network_that_is_told_of_no_frame_is_the_one_it_was_bit_for_bit():
    plain, told = (Networks(model) for model in (PLAIN, TOLD))
    params = random_params(plain.by_component[Component.UNET].shapes)
    layer = told.by_component[Component.UNET].shapes["known_frames"]
    draw = np.random.default_rng(0)
    z = jnp.asarray(draw.normal(size=(2, T, 8, 8, 4)), jnp.float32)
    text = jnp.asarray(draw.normal(size=(2, 3, MODEL.unet.context)), jnp.float32)

    def output(networks, known, given=None):
        unet = params if known is None else {**params, "known_frames": known}
        condition = Condition(text, jnp.full(2, 8.0), given)
        run = quick(lambda unet: networks.denoise({"unet": unet}, z, jnp.full(2, 9.0), condition))
        return np.asarray(run(unet))

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape), layer)
    learned = random_params(layer)
    given = known_frame_channels(2 * z, jnp.tile(jnp.arange(T) < 2, (2, 1)))
    before = output(plain, None)
    np.testing.assert_array_equal(output(told, zero, given), before)
    np.testing.assert_array_equal(output(told, learned), before)
    np.testing.assert_array_equal(output(told, learned, jnp.zeros_like(given)), before)
    assert np.abs(output(told, learned, given) - before).max() > 1e-3


def test_the_layer_is_all_that_weights_need_not_have_and_it_trains(weights, trained):
    before, after = (flatten(load(place).params["unet"]) for place in (weights, trained))
    assert set(after) - set(before) == {"known_frames.kernel"}
    assert after["known_frames.kernel"].shape == (3, 3, 5, 8)
    assert np.any(after["known_frames.kernel"])  # it began at zero


def test_weights_bring_the_layer_to_a_config_without_it(trained):
    initial = initial_of(tiny(init_from=str(trained), model=PLAIN))
    assert initial.fitted(PLAIN).unet == TOLD.unet


def test_it_goes_to_diffusers_and_back(trained, tmp_path):
    folder, back = tmp_path / "diffusers", tmp_path / "back"
    for source, out, form in ((trained, folder, "diffusers"), (folder, back, "jax")):
        run_main(["magicvideo_jax.convert", str(source), str(out), f"--to={form}"])
    assert json.loads((folder / "unet/config.json").read_text())["in_channels"] == 4
    jax.tree.map(np.testing.assert_array_equal, load(trained).params, load(back).params)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Two pictures, one of another size with a transparent half, and a clip of 12 frames."""
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    clip = draw.integers(0, 256, (12, 16, 16, 3), np.uint8)
    save_video(clip, folder / "clip.gif", fps=10)
    for name in ("one", "other"):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{name}.png")
    wide = draw.integers(0, 256, (20, 31, 4), np.uint8)
    Image.fromarray(wide).save(folder / "wide.png")
    return folder


def load_frames(file: Path) -> np.ndarray:
    with Image.open(file) as clip:
        return np.stack([np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(clip)])


def test_a_picture_of_any_size_decides_on_the_clip(trained, files):
    pipe = load(trained)

    def sampled(name: str) -> np.ndarray:
        source = SourceRequest(image=str(files / name))
        return sample_clips(pipe, ClipRequest("a red circle"), source).clips[0]

    clips = [sampled(name) for name in ("one.png", "other.png", "wide.png")]
    assert all(clip.shape == (T, 16, 16, 3) for clip in clips)
    assert not any(np.array_equal(*pair) for pair in itertools.combinations(clips, 2))
    np.testing.assert_array_equal(clips[0], sampled("one.png"))


def test_a_clip_goes_on_in_windows_each_told_the_end_of_the_last(trained, files):
    pipe, told, made_of = load(trained), [], []
    latents, decoded = pipe.latents, pipe.decoded
    pipe.latents = lambda request, *given, **more: (
        told.append(request.clips) or latents(request, *given, **more)
    )
    pipe.decoded = lambda z, **more: made_of.append(z) or decoded(z, **more)
    request = ClipRequest("a red circle", frames=9, known_frames=2, fps=10.0, num=2)
    made = sample_clips(pipe, request, SourceRequest(video=str(files / "clip.gif")))
    assert made.clips.shape == (2, 9, 16, 16, 3)
    assert made.fps == pytest.approx(10)
    np.testing.assert_array_equal(told[0].pixels[0, :2], load_frames(files / "clip.gif")[-2:])
    assert [one.is_known.tolist() for one in told] == [[[True, True, False, False]] * 2] * 4
    (z,) = made_of
    assert z.shape == (2, 9, 8, 8, 4)
    for i in (1, 2, 3):
        np.testing.assert_array_equal(told[i].z[:, :2], z[:, 2 * i : 2 * i + 2])
    assert not np.array_equal(z[:, 2:4], z[:, 4:6])


def test_windows_as_short_as_the_usual_overlap_go_on(trained, files):
    request = ClipRequest("a red circle", frames=T + 1)
    made = sample_clips(load(trained), request, SourceRequest(image=str(files / "one.png")))
    assert made.clips.shape == (1, T + 1, 16, 16, 3)


def test_strength_leads_from_the_clip_to_sampling(weights, files):
    pipe, source = load(weights), SourceRequest(video=str(files / "clip.gif"))

    def sampled(strength: float | None) -> np.ndarray:
        small = {"frames": T, "size": (16, 16), "fps": 10.0, "steps": 2}
        request = ClipRequest("a red circle", strength=strength, **small)
        return sample_clips(pipe, request, NO_SOURCE if strength is None else source).clips[0]

    unchanged, half, all_of_it = map(sampled, (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(unchanged, load_frames(files / "clip.gif")[:T])
    np.testing.assert_array_equal(all_of_it, sampled(None))
    assert not np.array_equal(half, unchanged)
    assert not np.array_equal(half, all_of_it)


REFUSED = (
    (("--image={files}/one.png", "--video={files}/clip.gif"), "--image="),
    (("--image={files}/none.png",), "none.png: no such file"),
    (("--image={files}",), "no such file"),
    (("--strength=0.5",), "--strength=0.5: give the video to edit"),
    (("--video={files}/clip.gif", "--strength=1.5"), "--strength=1.5: give a share from 0 to 1"),
    (("--video={files}/clip.gif", "--strength=0.01"), "--strength=0.01: give 0.5 to 1"),
    (("--video={files}/one.png",), "one.png: too short: 1 frames, and 2 are wanted"),
    (("--video={files}/clip.gif", "--known_frames=4"), "--known_frames=4: give less than the 4"),
    (("--video={files}/clip.gif", "--fps=0.5"), "clip.gif: too short: 1.10 s, and 2 frames at 0.5"),
)


def test_what_a_clip_cannot_start_from_is_one_line(trained, weights, files, tmp_path, capsys):
    told, plain = f"--workdir={trained}", f"--workdir={weights}"
    for arguments, said in (
        *(((told, *arguments), said) for arguments, said in REFUSED),
        ((plain, "--image={files}/one.png"), "this model cannot be told of frames"),
    ):
        given = [one.format(files=files) for one in arguments]
        if not any("known_frames" in one for one in given):
            given.append("--known_frames=2")
        command = ["magicvideo_jax.sample", "--prompt=a", f"--out={tmp_path}/clip.gif", *given]
        with pytest.raises(AssertionError, match="exit code 2"):
            run_main(command)
        (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("writing")]
        assert said in line, (given, line)
        assert not list(tmp_path.iterdir())


def test_late_clips_of_a_network_that_cannot_know_so_are_refused():
    late = DataConfig(frames=T, size=16, late_fraction=0.5)
    with pytest.raises(UserError, match=r"config\.data\.late_fraction=0\.5: only a network"):
        check_stage(tiny("video", model=PLAIN, data=late))


@pytest.mark.parametrize(
    ("stage", "model", "words"),
    [
        ("video", PLAIN, "config.denoising.known_frames: the network is told of none"),
        ("image", MODEL, "config.denoising.known_frames: for stage=video only"),
    ],
)
def test_a_policy_without_a_layer_is_refused(stage, model, words):
    denoising = DenoisingConfig(known_frames=POLICY)
    with pytest.raises(UserError, match=words):
        check_stage(tiny(stage, model=model, denoising=denoising))
