"""The weights that come with the package: small, in the real layout, and true to captions they have not seen."""

from dataclasses import replace

import numpy as np
import pytest
from test_configs import config_of

import magicvideo_jax as mv
from magicvideo_jax.data.drawn.shape_clips import held_out_image_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.experiment.config import Component, EvaluateConfig, read_experiment
from magicvideo_jax.experiment.held_out import open_held_out
from magicvideo_jax.experiment.initial_weights import EMBEDDED, initial_of
from magicvideo_jax.experiment.stages.registry import stage_of

MOST_BYTES = 16e6


def drawn(captions: list[str]) -> list[np.ndarray]:
    pipe = mv.load("embedded")
    return list(pipe.many(captions, pipe.experiment.sample, batch_size=8))


def test_they_are_whole_and_small():
    files = [path for path in EMBEDDED["embedded"].parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    parts = {
        "embedded": {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"},
        "embedded_video_vae": {"vae", "vae_temporal"},
    }
    for name, folder in EMBEDDED.items():
        assert {path.name for path in folder.iterdir()} == parts[name]
        assert all(path.stat().st_size for path in folder.rglob("*.safetensors"))
    card = (EMBEDDED["embedded"].parent / "MODEL_CARD.md").read_text()
    assert all(
        word in card
        for word in ("configs/vae.py", "configs/t2i.py", "magicvideo_jax.convert", "96.9 %")
    )


def test_pictures_show_what_unseen_captions_say():
    scenes = held_out_image_scenes(0, 16)
    scores = caption_accuracy(drawn([s.image_caption for s in scenes]), [s.truth for s in scenes])
    assert scores["colour"] == 1, scores
    assert scores["shape"] >= 0.8, scores


def test_the_video_vae_flickers_less_than_the_decoder_of_images():
    """And loses nothing for it; of the same encoder, or `initial_of` would refuse it."""
    experiment = read_experiment(config_of("video_vae"))
    few = EvaluateConfig(clips=8, batch_size=8)
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
