"""Whole runs of tiny experiments: every stage trains, resumes where it stopped, and is sampled from."""

import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from clip_reading import read_clip
from tiny import random_params
from tiny_experiment import tiny

import magicvideo_jax as mv
from magicvideo_jax import convert, sample
from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.tree import flatten, merge, unflatten
from magicvideo_jax.core.types import Condition
from magicvideo_jax.experiment.config import (
    Component,
    Experiment,
    config_dict,
    read_experiment,
)
from magicvideo_jax.experiment.datasets import CLIPS, IMAGES, drawn_source, example
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.setup import RunSetup, set_up_or_resume
from magicvideo_jax.experiment.stages.registry import check_stage, stage_of
from magicvideo_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("one_device")


def started(experiment, workdir) -> RunSetup:
    folder = RunFolder(workdir)
    folder.create()
    with closing(Checkpoints(workdir)) as checkpoints:
        return set_up_or_resume(experiment, folder, checkpoints)


def params_of(workdir):
    folder = RunFolder(workdir)
    experiment = folder.experiment()
    return flatten(trained_params(folder, Networks(experiment.model), experiment))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("video")
    run(tiny(), workdir)
    return workdir


def test_a_run_leaves_everything_in_its_work_folder(trained):
    scores = json.loads((trained / "metrics.json").read_text())
    assert set(scores["caption_accuracy"]) == {"shape", "colour", "motion", "all"}
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"loss", "grad_norm", "clips_per_second", "data_wait_share"} <= set(lines[0])
    assert (trained / "previews" / "step_000004.png").is_file()
    assert (trained / "previews" / "step_000004.mp4").is_file()
    assert read_experiment(json.loads((trained / "config.json").read_text())).stage == "video"


def test_the_same_command_goes_on_where_it_stopped(trained, tmp_path):
    """State, place in the data and next batch are exactly those of the moment of the save."""
    experiment, workdir = tiny(), shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")  # as if it had stopped after step 2
    saved = params_of(workdir)
    again = started(experiment, workdir)
    assert int(again.state.step) == 2
    for path, leaf in flatten(merge(again.state.ema, again.state.frozen)).items():
        np.testing.assert_array_equal(leaf, saved[path], err_msg=path)
    unbroken = started(experiment, tmp_path / "other").loader
    next(unbroken), next(unbroken)
    jax.tree.map(np.testing.assert_array_equal, next(again.loader), next(unbroken))


def test_frozen_networks_that_were_removed_are_read_again(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "frozen")
    again, there = started(tiny(), workdir), params_of(trained)
    assert int(again.state.step) == 4
    for path, leaf in flatten(again.state.frozen).items():
        np.testing.assert_array_equal(leaf, there[path], err_msg=path)
    assert (workdir / "frozen" / "seal.json").is_file()


def test_a_pipeline_draws_the_same_clip_for_the_same_seed(trained, tmp_path):
    pipe = mv.load(trained)
    clip = pipe("a red circle moving left", seed=1)
    assert (clip.shape, clip.dtype) == ((2, 16, 16, 3), np.uint8)
    pipe.release()
    np.testing.assert_array_equal(clip, pipe("a red circle moving left", seed=1))
    assert (clip != pipe("a red circle moving left", seed=2)).any()
    mv.save_video(clip, tmp_path / "clip.gif", fps=8)
    assert (tmp_path / "clip.gif").is_file()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"prompt": "  "}, "--prompt"),
        ({"prompt": "a star", "frames": 3}, "--frames=3"),
        ({"prompt": "a", "fps": 0.0}, "fps=0.0"),
    ],
)
def test_what_a_pipeline_cannot_do_is_one_line(trained, how, said):
    with pytest.raises(UserError, match=said):
        mv.load(trained)(**how)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--prompt": " "}, "--prompt is empty"),
        (
            {"--frames": "3"},
            "--frames=3: this model's temporal layers know 2 frames",
        ),
        (
            {"--frames": "3", "--context_frames": "2"},
            "--context_overlap=4: give less than frames=2",
        ),
        (
            {"--frames": "9", "--context_frames": "5"},
            "--context_frames=5: this model's temporal layers know 2 frames",
        ),
        ({"--context_frames": "0"}, "--context_frames=0"),
        ({"--context_stride": "0"}, "--context_stride=0"),
        ({"--free_init": "0"}, "--free_init=0"),
        ({"--frames": "0"}, "--frames=0"),
        ({"--lora": "none.safetensors:0.5"}, "--lora=none.safetensors: no such file"),
        ({"--steps": "0"}, "steps=0"),
        ({"--fps": "0"}, "--fps=0.0"),
        ({"--num": "0"}, "--num=0"),
        ({"--out": "clip.avi"}, "clip.avi: give a name ending in .mp4 or .gif"),
        ({"--out": "/dev/null/clip.mp4"}, "/dev/null/clip.mp4 cannot be written"),
        ({"--workdir": "/nowhere"}, "workdir=/nowhere: no such file or folder"),
    ],
)
def test_a_mistake_of_sample_is_one_line_and_exit_code_2(
    trained, tmp_path, monkeypatch, capsys, changes, said
):
    given = {
        "--workdir": str(trained),
        "--prompt": "a red star",
        "--out": f"{tmp_path}/clip.mp4",
    } | changes
    monkeypatch.setattr(
        sys, "argv", ["sample", *(f"{name}={value}" for name, value in given.items())]
    )
    with pytest.raises(SystemExit) as exit:
        sample.main()
    assert exit.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not any(tmp_path.iterdir())


def test_sample_writes_every_clip_that_is_asked_for(trained, tmp_path, monkeypatch):
    arguments = [
        "--workdir",
        str(trained),
        "--prompt",
        "a star",
        "--out",
        f"{tmp_path}/clip.mp4",
        "--num",
        "2",
    ]
    monkeypatch.setattr(
        sys, "argv", ["sample", *arguments, "--sampler", "dpm++2m", "--negative_prompt", "a circle"]
    )
    sample.main()
    clips = [read_clip(tmp_path / f"clip_{i}.mp4")[0] for i in range(2)]
    assert (clips[0].shape, clips[1].shape) == ((2, 16, 16, 3), (2, 16, 16, 3))
    assert (clips[0] != clips[1]).any()


def test_several_prompts_make_the_clips_of_several_calls_also_side_by_side(
    trained, tmp_path, monkeypatch
):
    prompts = ["--prompt=a star", "--prompt=a ring"]

    def made(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sample", f"--workdir={trained}", *arguments])
        sample.main()

    made(*prompts, f"--out={tmp_path}/both/")
    made(prompts[1], f"--out={tmp_path}/ring/")
    made(*prompts, f"--out={tmp_path}/sheet.gif", "--sheet")
    for moment in ("frame_0000.png", "frame_0001.png"):
        alone = (tmp_path / "ring" / moment).read_bytes()
        assert (tmp_path / "both_1" / moment).read_bytes() == alone
    sheet = read_clip(tmp_path / "sheet.gif")[0]
    assert len(sheet) == 2
    assert sheet.shape[2] > 2 * 128


def test_sample_writes_clips_longer_than_those_of_training(trained, tmp_path, monkeypatch):
    windows = (
        "--frames=5 --context_frames=2 --context_overlap=1 --context_reuse_noise --free_init=2"
    )
    arguments = f"--workdir={trained} --prompt=star --out={tmp_path}/clip.mp4 {windows} --steps=2"
    monkeypatch.setattr(sys, "argv", ["sample", *arguments.split()])
    sample.main()
    clip = read_clip(tmp_path / "clip.mp4")[0]
    assert clip.shape == (5, 16, 16, 3)
    assert all((clip[i] != clip[i + 1]).any() for i in range(4))


def test_a_vae_run_measures_its_scaling_and_hands_it_on(tmp_path):
    run(tiny("vae"), tmp_path / "vae")
    saved = RunFolder(tmp_path / "vae").experiment().model.vae.scaling
    deviation = json.loads((tmp_path / "vae" / "metrics.json").read_text())["latent_std"]
    assert saved == pytest.approx(1 / deviation)
    image = started(tiny("image", init_from=str(tmp_path / "vae")), tmp_path / "image")
    assert image.experiment.model.vae.scaling == saved
    there = params_of(tmp_path / "vae")
    with pytest.raises(UserError, match=r"config\.seed=1: the run in --workdir=.* has 0"):
        run(tiny("vae", seed=1), tmp_path / "vae")
    for path, leaf in flatten(image.state.frozen["vae"]).items():
        np.testing.assert_array_equal(leaf, there[f"vae.{path}"])


@pytest.mark.slow
def test_a_video_run_begins_as_the_image_run_it_comes_from(tmp_path):
    run(tiny("image"), tmp_path / "image")
    video = started(tiny(init_from=str(tmp_path / "image")), tmp_path / "video")
    image = Networks(RunFolder(tmp_path / "image").experiment().model)
    there = params_of(tmp_path / "image")
    assert video.from_weights == sum(leaf.size for leaf in there.values())
    params = {"unet": video.state.params["unet"]}
    z = jax.random.normal(jax.random.key(0), (2, 2, 8, 8, 4))
    time, text = jax.numpy.full(2, 300.0), jax.random.normal(jax.random.key(1), (2, 24, 8))
    moving = video.networks.denoise(params, z, time, Condition(text, jax.numpy.full(2, 8.0)))
    still = image.denoise(unflatten(there), z, time, Condition(text))
    np.testing.assert_allclose(moving, still, atol=1e-5)


def test_clips_and_pictures_train_together(tmp_path):
    """Pictures reach the image network and nothing temporal; clips without a caption are told nothing."""
    experiment = tiny(data=replace(tiny().data, joint_images=True, uncaptioned_fraction=1.0))
    ready = started(experiment, tmp_path)
    batch = next(ready.loader)
    assert batch["video"]["pixels"].shape == (8, 2, 16, 16, 3)
    assert batch["image"]["pixels"].shape == (8, 1, 16, 16, 3)
    assert (batch["video"]["ids"] == ready.tokenizer([""])).all()
    assert not (batch["image"]["ids"] == ready.tokenizer([""])).all(axis=1).any()
    # Not fresh ones: there the last convolution is zero, and nothing before it matters.
    unet = random_params(ready.networks.by_component[Component.UNET].shapes)
    params = merge(ready.state.params, ready.state.frozen) | {"unet": unet}
    other = {path: leaf + 0.1 * ("temporal" in path) for path, leaf in flatten(unet).items()}
    objective = stage_of(experiment).objective(experiment, ready.networks, ready.tokenizer)
    losses = jax.jit(lambda params: objective(params, batch, jax.random.key(0), 0)[1])
    before, after = losses(params), losses(params | {"unet": unflatten(other)})
    assert np.isfinite([before["video_loss"], before["image_loss"]]).all()
    assert before["image_loss"] == after["image_loss"]
    assert before["video_loss"] != after["video_loss"]


@pytest.mark.parametrize("joint_images", [False, True])
def test_examples_may_be_encoded_before_the_first_step(tmp_path, joint_images):
    """Each example comes once a round, with a sample of its own q(z | x); a resumed run makes the same ones again."""
    data = replace(tiny().data, precompute_examples=40, joint_images=joint_images)
    ready = started(tiny(data=data), tmp_path)
    batches = [next(ready.loader) for _ in range(5)]
    scale = ready.experiment.model.vae.scaling
    for kind, frames in {"video": 2, "image": 1}.items() if joint_images else {None: 2}.items():
        field = IMAGES if kind == "image" else CLIPS
        source = drawn_source(ready.experiment, frames, field=field)
        known = [example(source[i], tokenizer=ready.tokenizer) for i in range(40)]
        loaded = [batch if kind is None else batch[kind] for batch in batches]
        ids = np.concatenate([part["ids"] for part in loaded])
        order = [np.flatnonzero((ids == one["ids"]).all(axis=1))[0] for one in known]
        latents = np.concatenate([part["latents"] for part in loaded])
        assert latents.dtype == np.float16
        distinct = [
            i
            for i, one in enumerate(known)
            if sum((one["ids"] == two["ids"]).all() for two in known) == 1
        ]
        pixels = np.stack([known[i]["pixels"] for i in distinct])
        mean, log_variance = ready.networks.moments(
            ready.state.frozen, to_float(jax.numpy.asarray(pixels))
        )
        found = latents[[order[i] for i in distinct]].astype(np.float32) / scale
        noise = (found - np.asarray(mean)) / np.exp(0.5 * np.asarray(log_variance))
        assert 0.95 < noise.std() < 1.05
        assert abs(noise.mean()) < 0.05
    again = started(tiny(data=data), tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, next(again.loader), batches[0])


@pytest.mark.parametrize("of", ["run", "converted"])
def test_a_run_goes_back_to_pytorch(trained, tmp_path, monkeypatch, of):
    """A work folder converts to diffusers' layout, which loads as the same video model."""
    source, target = trained, tmp_path / "there"
    if of == "converted":
        convert_to(monkeypatch, source, tmp_path / "jax", "jax")
        source = tmp_path / "jax"
    convert_to(monkeypatch, source, target, "diffusers")
    assert json.loads((target / "unet/config.json").read_text())["sample_size"] == 8
    assert (target / "unet_temporal/diffusion_pytorch_model.safetensors").is_file()
    once, again = mv.load(trained), mv.load(target)
    assert again.experiment.data.size == 16
    prompt, sample = ["a red circle moving left"], once.experiment.sample
    np.testing.assert_array_equal(once.many(prompt, sample), again.many(prompt, sample))


def convert_to(monkeypatch, source, target, side):
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(target), "--to", side])
    convert.main()


def test_config_is_data_there_and_back():
    experiment = tiny()
    assert from_plain(Experiment, json.loads(json.dumps(to_plain(experiment)))) == experiment
    assert read_experiment(config_dict(experiment)) == experiment


def test_a_config_from_before_a_field_has_its_default():
    plain = to_plain(tiny())
    del plain["denoising"]["time_shift"], plain["optim"]["temporal_lr"]
    assert read_experiment(plain) == tiny()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["train"].update(speed=1), r"config.train.speed: no such field"),
        (
            lambda c: c["model"]["unet"]["levels"][0].pop("heads"),
            r"config.model.unet.levels\[0\].heads: missing",
        ),
        (lambda c: c["optim"].update(lr="fast"), r"config.optim.lr='fast'"),
        (lambda c: c.update(stage="film"), r"config.stage=film: give one of vae, image, video"),
        (lambda c: c["train"].update(steps=0), r"config.train.steps=0"),
        (lambda c: c["train"].update(log_every=0), r"config.train.log_every=0"),
        (lambda c: c["train"].update(keep_last=0), r"config.train.keep_last=0"),
        (lambda c: c["train"].update(keep_every=-1), r"config.train.keep_every=-1"),
        (lambda c: c["data"].update(frames=3), r"config.data.frames=3"),
        (lambda c: c["data"].update(size=17), r"config.data.size=17"),
    ],
)
def test_a_config_s_mistakes_are_named(change, said):
    plain = to_plain(tiny())
    change(plain)
    with pytest.raises(UserError, match=said):
        check_stage(read_experiment(plain))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init_from": "/nowhere/at/all"}, "config.init_from=/nowhere/at/all"),
        ({"init_from": ""}, "config.init_from is empty"),
    ],
)
def test_weights_that_are_not_there_are_named(change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        started(tiny(**change), tmp_path)


def test_a_batch_that_the_mesh_does_not_divide_is_named(tmp_path):
    experiment = tiny()
    with pytest.raises(UserError, match=r"train\.batch_size=6: give a multiple of 4"):
        started(
            replace(experiment, train=replace(experiment.train, batch_size=6, accumulate=4)),
            tmp_path,
        )
