"""Stable Diffusion's x4 upscaler, from small pictures and a prompt to large pictures, against diffusers'."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import StableDiffusionUpscalePipeline
from tiny_lavie import upscaler

from magicvideo_jax.core.types import Condition
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.process import corrupt
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.experiment.config import Component, ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler, make_solver_table
from magicvideo_jax.weights.open import open_weights

PROMPTS, STEPS, GUIDANCE, LEVEL = ["a bee", "the sea"], 20, 9.0, 30


def test_twenty_guided_steps_end_at_the_large_pictures_of_diffusers():
    draw = np.random.default_rng(0)
    small = draw.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    eps = draw.standard_normal((2, 8, 12, 4), np.float32)

    pipeline = StableDiffusionUpscalePipeline.from_pretrained(upscaler())
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS,
        image=torch.from_numpy(small).permute(0, 3, 1, 2),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        noise_level=LEVEL,
        latents=torch.from_numpy(eps).permute(0, 3, 1, 2),
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    # Its first random numbers are the noise of the small pictures.
    noise = torch.randn((2, 3, 8, 12), generator=torch.Generator().manual_seed(0))

    source = open_weights(upscaler())
    unet, vae, text = (source.parts[name].config for name in ("unet", "vae", "text_encoder"))
    networks = Networks(ModelConfig(unet=unet, vae=vae, text=text, noise=source.noise))
    params = {
        name: part.load(networks.by_component[Component(name)].shapes)
        for name, part in source.parts.items()
    }
    tokenizer = CaptionTokenizer(source.tokenizer, length=text.tokens)
    table = make_solver_table(SampleConfig(sampler=Sampler.DDIM, steps=STEPS), source.noise)
    schedule, level = schedule_of(source.low_resolution), jnp.full(2, LEVEL)

    @jit
    def run(params, ids, null_ids, x, noise, z):
        given = corrupt(x, noise, schedule.alpha(level), schedule.sigma(level))
        told = Condition(networks.encode_text(params, ids), None, given, level)
        null = told._replace(text=networks.encode_text(params, null_ids))
        denoise = guided(lambda *inputs: networks.denoise(params, *inputs), GUIDANCE, null)
        z = run_sampler(denoise, initial_latents(table, z), told, table=table)
        return networks.decode(params, z)

    as_clips = (jnp.asarray(array)[:, None] for array in (small, noise.permute(0, 2, 3, 1), eps))
    ours = run(params, tokenizer(PROMPTS), tokenizer([""] * 2), *as_clips)
    assert ours.shape == (2, 1, 32, 48, 3)
    expected = theirs.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(jax.numpy.clip(ours[:, 0] / 2 + 0.5, 0, 1), expected, atol=1e-3)
    assert expected.std() > 0.05
