"""The weights that come with the package: small, in the real layout, and true to captions they have not seen."""

import numpy as np
import pytest

import magicvideo_jax as mv
from magicvideo_jax.data.shapes import held_out_images
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.experiment.initial import EMBEDDED

MOST_BYTES = 16e6


def drawn(captions: list[str]) -> list[np.ndarray]:
    pipe = mv.load("embedded")
    return list(pipe.many(captions, pipe.experiment.sample, at_once=8))


def test_they_are_whole_and_small():
    files = [path for path in EMBEDDED["embedded"].parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for folder in EMBEDDED.values():
        assert {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"} <= {
            path.name for path in folder.iterdir()
        }
        assert all(path.stat().st_size for path in folder.rglob("*.safetensors"))
    card = (EMBEDDED["embedded"].parent / "MODEL_CARD.md").read_text()
    assert all(word in card for word in ("configs/vae.py", "configs/t2i.py", "magicvideo_jax.convert", "96.9 %"))


def test_pictures_show_what_unseen_captions_say():
    scenes = held_out_images(0, 16)
    scores = caption_accuracy(drawn([s.image_caption for s in scenes]), [s.truth for s in scenes])
    assert scores["colour"] == 1, scores
    assert scores["shape"] >= 0.8, scores


@pytest.mark.slow
def test_pictures_of_64_unseen_captions():
    scenes = held_out_images(0, 64)
    scores = caption_accuracy(drawn([s.image_caption for s in scenes]), [s.truth for s in scenes])
    print("this project's sampler:", scores)
    assert min(scores["shape"], scores["colour"]) >= 0.9, scores


@pytest.mark.slow
def test_diffusers_draws_64_unseen_captions_from_them():
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(EMBEDDED["embedded"]), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scenes = held_out_images(0, 64)
    made = []
    for first in range(0, 64, 16):
        generator = torch.Generator().manual_seed(first)
        prompts = [scene.image_caption for scene in scenes[first : first + 16]]
        made += pipe(
            prompts, num_inference_steps=20, guidance_scale=3.0, generator=generator, output_type="np"
        ).images.tolist()
    clips = [np.round(np.array(image)[None] * 255).astype(np.uint8) for image in made]
    scores = caption_accuracy(clips, [scene.truth for scene in scenes])
    print("diffusers:", scores)
    assert min(scores["shape"], scores["colour"]) >= 0.9, scores
