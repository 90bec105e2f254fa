"""Requests: checked as data before a model is there; a sampler is watched and cancelled step by step."""

import jax
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.requests.clip_making import check_clip_request, sample_settings
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, parse_interval, parse_size
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.sampling.free_init import FreeInitConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler
from magicvideo_jax.sampling.step_watch import SamplingCancelled, StepWatch

REQUEST = SampleRequest(prompts=["a", "b", "c"], fps=[8.0] * 3, seed=5)
SAMPLE = SampleConfig(Sampler.DDPM, steps=3)


def tokenize(prompts):
    return np.array([[ord((prompt + " ")[0]) % 50] * 24 for prompt in prompts], np.int32)


def make_clips(devices: int, on_step=None, sample: SampleConfig = SAMPLE) -> np.ndarray:
    experiment = tiny(sample=sample)
    networks = Networks(experiment.model)
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    shapes = networks.shapes(stage_of(experiment).components(experiment))
    places = with_shardings(shapes, mesh, min_size=64)
    params = jax.device_put(random_params(places), jax.tree.map(lambda x: x.sharding, places))
    watch = None if on_step is None else StepWatch(on_step)
    generator = Generator(experiment, networks, tokenize, frames=2, batch_size=2, watch=watch)
    return generator.generate(params, REQUEST)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_watched_sampler_makes_the_same_clips_and_tells_every_step(devices):
    seen = []

    def on_step(done, total):
        seen.append((done, total))
        return True

    np.testing.assert_array_equal(make_clips(devices, on_step), make_clips(devices))
    batches = 2 if devices == 1 else 1
    assert seen == [(done, 3 * batches) for done in range(3 * batches)]


def test_every_round_of_free_init_counts():
    seen = []
    sample = SampleConfig(steps=2, free_init=FreeInitConfig(iterations=2))
    make_clips(4, lambda done, total: seen.append((done, total)) is None, sample)
    assert seen == [(done, 4) for done in range(4)]


def test_a_cancelled_request_asks_no_more():
    seen = []

    def on_step(done, total):
        seen.append(done)
        return done < 1

    with pytest.raises(SamplingCancelled):
        make_clips(1, on_step)
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"negative_prompt": "\ud800"}, "negative_prompt is not UTF-8"),
        ({"prompt": "a" * 10_001}, "prompt has 10001 letters"),
        ({"num": 0}, "num=0: give at least 1"),
        ({"frames": 0}, "frames=0: give at least 1"),
        ({"seed": -1}, "--seed=-1"),
        ({"seed": 2**63}, "--seed=9223372036854775808"),
        ({"steps": 0}, "--steps=0"),
        ({"guidance": float("nan")}, "--guidance=nan"),
        ({"guidance_rescale": 2.0}, "--guidance_rescale=2.0"),
        ({"guidance_interval": (0.8, 0.2)}, "--guidance_interval="),
        ({"fps": 1e9}, "--fps=1000000000.0"),
        ({"sampler": "heun"}, "--sampler=heun: give one of ddim, dpm++2m, unipc, euler, ddpm, lcm"),
        ({"context_fuse": "both"}, "--context_fuse=both: give one of output, attention"),
        ({"context_frames": 4, "context_overlap": 4}, "--context_overlap=4"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(fields, said):
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        check_clip_request(ClipRequest(**{"prompt": "a red star", **fields}))


def test_what_is_not_asked_for_is_as_the_model_says():
    usual = SampleConfig(Sampler.EULER, steps=7, guidance=2.0)
    assert sample_settings(ClipRequest("a"), usual) == usual
    asked = ClipRequest("a", steps=3, sampler="ddim", size=(16, 32), free_init=3)
    settings = sample_settings(asked, usual)
    assert (settings.steps, settings.sampler, settings.guidance) == (3, Sampler.DDIM, 2.0)
    assert (settings.size, settings.free_init.iterations) == ((16, 32), 3)


def test_eta_is_of_the_model_s_sampler():
    """Whether it can be is known with the model alone."""
    check_clip_request(ClipRequest("a", eta=0.5))
    with pytest.raises(UserError, match=r"--eta=0\.5"):
        sample_settings(ClipRequest("a", eta=0.5), SampleConfig(Sampler.EULER))


@pytest.mark.parametrize(
    "text", ["", "16", "16x", "x16", "16x16x16", "0x16", "-1x8", "²x16", "9" * 9 + "x8"]
)
def test_a_size_is_two_numbers(text):
    with pytest.raises(UserError, match="size="):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0.5", "0.1,0.2,0.3", "a,b"])
def test_an_interval_is_two_numbers(text):
    with pytest.raises(UserError, match="guidance_interval="):
        parse_interval(text)


def test_an_interval_has_the_smaller_number_first():
    assert parse_interval("0.2, 0.8") == (0.2, 0.8)


def test_a_size_is_height_and_width():
    assert parse_size("320x512") == parse_size("320X512") == (320, 512)
