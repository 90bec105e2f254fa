"""The weights that come with the package: small, in the real layout, and true to captions they have not seen."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from clip_reading import read_clip
from test_configs import config_of

import magicvideo_jax as mv
from magicvideo_jax import convert, evaluate, sample
from magicvideo_jax.core.bicubic import enlarge, shrink
from magicvideo_jax.data.drawn.shape_clips import (
    Colour,
    Motion,
    Shape,
    Truth,
    draw_clip,
    held_out_image_scenes,
    held_out_scenes,
)
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.inserted_frames import inserted_frames
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.experiment.config import Component, EvaluateConfig, read_experiment
from magicvideo_jax.experiment.held_out import open_held_out
from magicvideo_jax.experiment.opening.initial_weights import (
    EMBEDDED,
    initial_of,
    initial_weights,
)
from magicvideo_jax.experiment.requests.continuation import known_beginning
from magicvideo_jax.experiment.stages.registry import stage_of

pytestmark = pytest.mark.usefixtures("one_device")

MOST_BYTES = 24e6
"""All files of the package."""
SCENE_SEEDS = (1801,)
"""Seeds of held-out scenes on which nothing was chosen."""


def drawn(captions: list[str]) -> list[np.ndarray]:
    pipe = mv.load("embedded")
    return list(pipe.many(captions, pipe.experiment.sample, batch_size=8))


def test_they_are_whole_and_small():
    package = Path(mv.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    image = {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    video = image | {"unet_temporal", "vae_temporal"}
    parts = {
        "embedded": image,
        "embedded_video": video,
        "embedded_video_vae": video,
        "embedded_interpolation": {"model_index.json", "unet", "unet_temporal", "scheduler"},
        "embedded_upscaler": image | {"low_res_scheduler"},
    }
    assert EMBEDDED.keys() == parts.keys()
    for name, folder in EMBEDDED.items():
        assert {path.name for path in folder.iterdir()} == parts[name]
        assert all(path.stat().st_size for path in folder.rglob("*.safetensors"))
    card = (EMBEDDED["embedded"].parent / "MODEL_CARD.md").read_text()
    made_by = ("configs/vae.py", "configs/t2i.py", "configs/t2v.py:known_frames", "convert")
    assert all(word in card for word in (*EMBEDDED, *made_by, "96.9 %"))


def test_a_clip_shows_its_prompt_where_no_weights_are_named(tmp_path, monkeypatch):
    """Clips by the command and from Python, with the settings that the weights were scored with."""
    arguments = ["sample", "--prompt=a red heart moving left", f"--out={tmp_path}/clip.mp4"]
    monkeypatch.setattr(sys, "argv", arguments)
    sample.main()
    frames, fps = read_clip(tmp_path / "clip.mp4")
    pipe = mv.load()
    assert pipe.experiment.init_from == "embedded_video"
    assert (pipe.experiment.sample.steps, pipe.experiment.sample.guidance) == (20, 5.0)
    clip = pipe("a red heart moving left", seed=0)
    assert (clip.shape, fps) == ((16, 64, 64, 3), 8)
    assert np.abs(frames - clip.astype(float)).mean() < 8  # as H.264 keeps it
    truth = Truth(Shape.HEART, Colour.RED, Motion.LEFT)
    assert caption_accuracy([clip], [truth])["all"] == 1


@pytest.mark.parametrize("name", ["embedded", "embedded_video", "embedded_upscaler"])
def test_they_convert_to_jax_and_back_bit_for_bit(name, tmp_path, monkeypatch):
    """What a video network adds, too, and the settings to sample with."""
    for one, other in ((name, "jax"), (tmp_path / "jax", "back")):
        arguments = ["convert", str(one), str(tmp_path / other), "--dtype=float16"]
        monkeypatch.setattr(sys, "argv", arguments)
        convert.main()
    ours, back = EMBEDDED[name], tmp_path / "back"
    files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert sorted(path.relative_to(back) for path in back.rglob("*") if path.is_file()) == files
    for file in files:
        assert (back / file).read_bytes() == (ours / file).read_bytes(), file
    ways = (initial_weights(path).sample("") for path in (name, str(tmp_path / "jax")))
    assert len(set(ways)) == 1


def test_pictures_show_what_unseen_captions_say():
    scenes = held_out_image_scenes(0, 16)
    scores = caption_accuracy(drawn([s.image_caption for s in scenes]), [s.truth for s in scenes])
    assert scores["colour"] == 1, scores
    assert scores["shape"] >= 0.8, scores


def test_the_video_vae_flickers_less_than_the_decoder_of_images():
    """And loses nothing for it; of the same encoder, or `initial_of` would refuse it."""
    experiment = read_experiment(config_of("video_vae"))
    few = EvaluateConfig(clips=4, batch_size=4)
    experiment = replace(experiment, vae_from="embedded_video_vae", evaluate=few)
    model, networks, params = initial_of(experiment).opened(Component.VAE)
    experiment = replace(experiment, model=model)
    stage = stage_of(experiment)
    held_out = open_held_out(experiment, stage.frames(experiment))
    scores = stage.evaluator(experiment, networks, None, held_out).metrics(params)
    image, video = scores["image"], scores["video"]
    assert scores["less_flicker"] > 0.25, scores
    assert video["warped_error"] < image["warped_error"]
    assert video["psnr"] > image["psnr"]
    assert video["ssim"] > image["ssim"]


def test_a_picture_moves_as_the_prompt_says():
    """The first frame of an unseen scene."""
    pipe, (scene,) = mv.load(), held_out_scenes(1802, 1)
    source = draw_clip(scene)
    start = known_beginning(source.pixels[:1], frames=16)
    sample = replace(pipe.experiment.sample, fps=scene.fps)
    (clip,) = pipe.many([scene.caption], sample, start=start)
    assert psnr(clip[None, :1], source.pixels[None, :1]).mean() > 28
    assert caption_accuracy([clip], [scene.truth])["all"] == 1


def test_inserted_frames_are_nearer_to_the_true_ones_than_a_blend():
    scenes = [replace(scene, fps=4 * scene.fps) for scene in held_out_scenes(1802, 4)]
    clips = np.stack([draw_clip(scene, frames=5).pixels for scene in scenes])
    between = mv.load_interpolation("embedded_video", unet="embedded_interpolation")
    made = between.many(clips[:, [0, 4]], [scene.caption for scene in scenes])
    scores = inserted_frames(made, clips)
    assert scores["psnr"] > scores["psnr_of_blending"] + 1.5, scores
    assert scores["psnr"] > scores["psnr_of_repetition"] + 3, scores


def test_large_frames_are_nearer_to_the_true_ones_than_bicubic():
    (scene,) = held_out_scenes(1802, 1)
    large = draw_clip(scene, frames=2, size=256).pixels
    small = np.asarray(shrink(jnp.asarray(large), 4))
    made = mv.load_upscaling("embedded_upscaler")(small, scene.caption)
    bicubic = np.asarray(enlarge(jnp.asarray(small), 4))
    assert made.shape == large.shape
    assert psnr(made[None], large[None]).mean() > psnr(bicubic[None], large[None]).mean() + 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", SCENE_SEEDS)
def test_clips_of_256_unseen_captions(seed, tmp_path, monkeypatch):
    """Scores by the command; no choice was made on these scenes."""
    scores = tmp_path / "scores.json"
    how = ("--metrics=caption_accuracy", "--clips=256", f"--seed={seed}", f"--out={scores}")
    monkeypatch.setattr(sys, "argv", ["evaluate", "--weights=embedded_video", *how])
    evaluate.main()
    accuracy = json.loads(scores.read_text())["caption_accuracy"]
    print(f"seed {seed}:", accuracy)
    assert min(accuracy[part] for part in ("shape", "colour", "motion")) >= 0.97, accuracy
    assert accuracy["all"] >= 0.93, accuracy


@pytest.mark.slow
def test_pictures_of_64_unseen_captions():
    scenes = held_out_image_scenes(0, 64)
    scores = caption_accuracy(drawn([s.image_caption for s in scenes]), [s.truth for s in scenes])
    print("this project's sampler:", scores)
    assert min(scores["shape"], scores["colour"]) >= 0.9, scores


@pytest.mark.slow
def test_diffusers_draws_64_unseen_captions_from_them():
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        str(EMBEDDED["embedded"]), torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    scenes = held_out_image_scenes(0, 64)
    made = []
    for first in range(0, 64, 16):
        generator = torch.Generator().manual_seed(first)
        prompts = [scene.image_caption for scene in scenes[first : first + 16]]
        made += pipe(
            prompts,
            num_inference_steps=20,
            guidance_scale=3.0,
            generator=generator,
            output_type="np",
        ).images.tolist()
    clips = [np.round(np.array(image)[None] * 255).astype(np.uint8) for image in made]
    scores = caption_accuracy(clips, [scene.truth for scene in scenes])
    print("diffusers:", scores)
    assert min(scores["shape"], scores["colour"]) >= 0.9, scores
