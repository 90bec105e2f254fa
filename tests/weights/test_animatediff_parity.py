"""AnimateDiff v1, v2 and v3 in both norm conventions against diffusers' UNetMotionModel, and whole samplings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler
from safetensors.torch import save_file
from tiny import quick
from tiny_motion import (
    VERSIONS,
    motion_unet,
    original_keys,
    random_folder,
    random_pipeline,
    tiny_adapter,
    with_original_norms,
)
from torch_weights import relative_error

from magicvideo_jax.core.types import Condition
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.experiment.config import Component, ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.models.temporal import ANIMATEDIFF_V1, ANIMATEDIFF_V2, ANIMATEDIFF_V3
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.keyframes import SampleConfig, make_solver_table
from magicvideo_jax.weights.motion_weights import joined
from magicvideo_jax.weights.open import open_weights

FRAMES, SIZE, STEPS, GUIDANCE = 4, 4, 20, 7.5
DOCUMENTED = {
    "original": DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
    ),
    "diffusers": DDIMScheduler.from_config(
        {k: v for k, v in random_pipeline().scheduler.config.items() if not k.startswith("_")},
        clip_sample=False,
        timestep_spacing="linspace",
        beta_schedule="linear",
        steps_offset=1,
        set_alpha_to_one=False,
    ),
}
"""Schedulers of AnimateDiff's scripts/animate.py and of diffusers' documentation."""


def saved(place, version: str, convention: str):
    """A motion file in the keys of the program whose convention it is."""
    adapter = tiny_adapter(version)
    if convention == "diffusers":
        adapter.save_pretrained(place / "adapter")
        return place / "adapter"
    save_file(original_keys(adapter), place / "mm.safetensors")
    return place / "mm.safetensors"


def opened(motion):
    return joined(open_weights(random_folder()), open_weights(motion), name="--motion")


def reference(version: str, convention: str):
    unet = motion_unet(version)
    if convention == "original":
        return with_original_norms(unet, version, frames=FRAMES)
    return unet


@pytest.mark.parametrize("convention", ["original", "diffusers"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_motion_file_in_image_weights_computes_what_its_program_does(
    tmp_path, version, convention
):
    part = opened(saved(tmp_path, version, convention)).parts["unet"]
    draw = np.random.default_rng(0)
    z = draw.normal(size=(2, FRAMES, SIZE, SIZE, 4)).astype(np.float32)
    text = draw.normal(size=(2, 7, 64)).astype(np.float32)
    times = np.array([10, 700])
    network = part.network()
    ours = quick(network.apply)(
        part.load(network.shapes), jnp.array(z), jnp.array(times, jnp.float32), jnp.array(text)
    )
    with torch.no_grad():
        theirs = reference(version, convention)(
            torch.tensor(z).permute(0, 4, 1, 2, 3),
            torch.tensor(times),
            torch.tensor(text).repeat_interleave(FRAMES, 0),
        ).sample
    assert relative_error(ours, theirs.permute(0, 2, 3, 4, 1)) < 1e-4


def test_the_versions_are_told_apart_by_their_keys(tmp_path):
    known = {"v1": ANIMATEDIFF_V1, "v2": ANIMATEDIFF_V2, "v3": ANIMATEDIFF_V3}
    for version, temporal in known.items():
        part = opened(saved(tmp_path, version, "original")).parts["unet"]
        assert part.config.temporal == temporal


@pytest.mark.parametrize(("version", "convention"), [("v1", "original"), ("v2", "diffusers")])
def test_twenty_guided_steps_end_at_the_latents_of_the_program(tmp_path, version, convention):
    weights = opened(saved(tmp_path, version, convention))
    model = ModelConfig(
        unet=weights.parts["unet"].config,
        vae=weights.parts["vae"].config,
        text=weights.parts["text_encoder"].config,
    )
    networks = Networks(model)
    params = {
        name: part.load(networks.by_component[Component(name)].shapes)
        for name, part in weights.parts.items()
    }
    assert weights.noise is not None
    assert weights.tokenizer is not None
    table = make_solver_table(SampleConfig(steps=STEPS), weights.noise)
    tokenize = CaptionTokenizer(weights.tokenizer, length=model.text.tokens)

    @jit
    def run(params, z, ids, null_ids):
        condition = Condition(networks.encode_text(params, ids))
        null = Condition(networks.encode_text(params, null_ids))
        denoise = guided(lambda *inputs: networks.denoise(params, *inputs), GUIDANCE, null)
        return run_sampler(denoise, initial_latents(table, z), condition, table=table)

    eps = np.random.default_rng(0).standard_normal((1, FRAMES, SIZE, SIZE, 4), np.float32)
    ours = run(params, jax.numpy.asarray(eps), tokenize(["a bee"]), tokenize([""]))

    images = random_pipeline()
    pipeline = AnimateDiffPipeline(
        vae=images.vae,
        text_encoder=images.text_encoder,
        tokenizer=images.tokenizer,
        unet=reference(version, convention),
        motion_adapter=None,
        scheduler=DOCUMENTED[convention],
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a bee",
        num_frames=FRAMES,
        height=SIZE * pipeline.vae_scale_factor,
        width=SIZE * pipeline.vae_scale_factor,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=torch.from_numpy(eps).permute(0, 4, 1, 2, 3),
        output_type="latent",
    ).frames
    assert relative_error(ours, theirs.permute(0, 2, 3, 4, 1).numpy()) < 1e-3
