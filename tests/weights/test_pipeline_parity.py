"""A whole text-to-image pipeline, from prompt to final latents, against diffusers' from the same start noise."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from tiny_pipeline import tiny_folder, tiny_pipeline

from magicvideo_jax.core.types import Condition
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.experiment.config import Component, ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler, make_solver_table
from magicvideo_jax.weights.open import open_weights

PROMPTS, STEPS, GUIDANCE = ["a bee", "the sea"], 20, 7.5
SAMPLERS = {
    Sampler.DDIM: lambda config: DDIMScheduler.from_config(
        config, clip_sample=False, set_alpha_to_one=False
    ),
    Sampler.DPM: lambda config: DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++"
    ),
}


@cache
def converted(second: bool):
    """The tiny pipeline of 1.x's or 2.x's form: diffusers' own, and our networks with its weights."""
    pipeline, source = tiny_pipeline(second=second), open_weights(tiny_folder(second=second))
    model = ModelConfig(
        unet=source.parts["unet"].config,
        vae=source.parts["vae"].config,
        text=source.parts["text_encoder"].config,
        noise=source.noise,
    )
    networks = Networks(model)
    params = {
        name: part.load(networks.by_component[Component(name)].shapes)
        for name, part in source.parts.items()
    }
    tokenizer = CaptionTokenizer(source.tokenizer, length=model.text.tokens)
    return pipeline, networks, params, tokenizer, source.noise


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", [Prediction.EPS, Prediction.V])
@pytest.mark.parametrize("second", [False, True], ids=["sd1", "sd2"])
def test_twenty_guided_steps_end_at_the_latents_of_diffusers(second, prediction, sampler):
    pipeline, networks, params, tokenizer, noise = converted(second)
    eps = np.random.default_rng(0).standard_normal((2, 8, 12, 4), np.float32)

    said = dict(pipeline.scheduler.config) | {
        "prediction_type": prediction.value,
        "timestep_spacing": "leading",
    }
    # Fields listed there fall back to the defaults of the new class, whatever they say.
    said.pop("_use_default_values", None)
    pipeline.scheduler = SAMPLERS[sampler](said)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS,
        height=8 * pipeline.vae_scale_factor,
        width=12 * pipeline.vae_scale_factor,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=torch.from_numpy(eps).permute(0, 3, 1, 2),
        output_type="latent",
    ).images

    table = make_solver_table(
        SampleConfig(sampler=sampler, steps=STEPS), replace(noise, prediction_type=prediction)
    )

    @jit
    def run(params, z, ids, null_ids):
        told = Condition(networks.encode_text(params, ids))
        null = Condition(networks.encode_text(params, null_ids))
        denoise = guided(lambda *inputs: networks.denoise(params, *inputs), GUIDANCE, null)
        return run_sampler(denoise, initial_latents(table, z), told, table=table)

    ours = run(
        params, jax.numpy.asarray(eps)[:, None], tokenizer(PROMPTS), tokenizer([""] * len(PROMPTS))
    )
    np.testing.assert_allclose(ours[:, 0], theirs.permute(0, 2, 3, 1).numpy(), atol=1e-3)


@pytest.mark.parametrize("second", [False, True], ids=["sd1", "sd2"])
def test_final_latents_decode_to_the_pixels_of_diffusers(second):
    pipeline, networks, params, _, _ = converted(second)
    z = np.random.default_rng(1).standard_normal((1, 8, 12, 4), np.float32)
    with torch.inference_mode():
        scaled = torch.from_numpy(z).permute(0, 3, 1, 2) / pipeline.vae.config.scaling_factor
        theirs = pipeline.vae.decode(scaled).sample.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(
        jit(networks.decode)(params, jax.numpy.asarray(z)), theirs, atol=1e-4
    )
