"""Clips from a model spread over eight devices: each device makes its own, and they are those of one device."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.models.temporal import MotionModuleConfig, animatediff
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.planning.collectives import find_collectives
from magicvideo_jax.sampling.clip_split import SplitKind
from magicvideo_jax.sampling.free_init import FreeInitConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler
from magicvideo_jax.sampling.windows import ContextConfig, ContextFusion

REQUEST = SampleRequest(prompts=["a", "b", "c"], fps=[4.0, 8.0, 16.0], negative="dull", seed=5)


def tokenize(prompts):
    """Another row for each."""
    return np.array(
        [[(7 * ord(prompt[0]) + i) % 50 for i in range(24)] for prompt in prompts], np.int32
    )


MOTION = animatediff(frames=2, motion=MotionModuleConfig(heads=2))


def generator_and_params(shape: MeshConfig, devices: int, *, frames: int = 2, temporal=None):
    experiment = tiny(sample=SampleConfig(Sampler.DDPM, steps=3))
    if temporal is not None:
        unet = replace(experiment.model.unet, temporal=temporal)
        experiment = replace(experiment, model=replace(experiment.model, unet=unet))
    networks = Networks(experiment.model)
    mesh = make_mesh(shape, jax.devices()[:devices])
    shapes = networks.shapes(stage_of(experiment).components(experiment))
    places = with_shardings(shapes, mesh, min_size=64)
    params = jax.device_put(random_params(places), jax.tree.map(lambda x: x.sharding, places))
    generator = Generator(experiment, networks, tokenize, frames=frames, batch_size=2)
    return generator, params, mesh


@pytest.fixture(scope="module")
def on_one_device():
    generator, params, mesh = generator_and_params(MeshConfig(), 1)
    assert generator.clips_at_once(mesh) == 2
    return generator.generate(params, REQUEST)


@pytest.mark.parametrize("shape", [MeshConfig(), MeshConfig(1, 8, 1), MeshConfig(2, 2, 2)], ids=str)
def test_eight_devices_make_the_clips_of_one(shape, on_one_device):
    generator, params, mesh = generator_and_params(shape, 8)
    assert generator.clips_at_once(mesh) == 8
    made = generator.generate(params, REQUEST)
    assert made.shape == on_one_device.shape
    assert len(np.unique(made)) > 50
    # One rounding apart.
    assert np.max(np.abs(made.astype(int) - on_one_device)) <= 1
    arguments = (*generator.batch(REQUEST, 0, 8), generator.settings())
    program = generator.program(mesh).lower(params, *arguments).compile().as_text()
    kinds = {one.kind for one in find_collectives(program, 8)}
    assert kinds == ({"all-gather"} if shape.fsdp > 1 else set())


def test_a_clip_is_the_same_whatever_stands_beside_it(on_one_device):
    """Also of a sampler that adds noise at every step."""
    generator, params, _ = generator_and_params(MeshConfig(), 1)
    alone = generator.generate(params, replace(REQUEST, prompts=["a"], fps=[4.0]))
    assert np.max(np.abs(alone[0].astype(int) - on_one_device[0])) <= 1


def test_a_want_of_memory_is_one_line():
    generator, params, mesh = generator_and_params(MeshConfig(), 1)

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G is too much\nallocations: ..")

    generator._programs[mesh, True, SplitKind.NONE] = refuse
    with pytest.raises(
        UserError,
        match=r"preview: out of memory while sampling 2 clips at once \(20G is too much\): give fewer",
    ):
        generator.generate(params, REQUEST, label="preview")


def test_a_program_is_filled_with_its_clips_and_copies_of_the_last():
    generator, _, _ = generator_and_params(MeshConfig(), 1)
    ids, null_ids, fps, keys, clips = generator.batch(REQUEST, 1, 4)
    assert clips is None
    np.testing.assert_array_equal(ids, tokenize(["b", "c", "c", "c"]))
    np.testing.assert_array_equal(null_ids, tokenize(["dull"])[0])
    np.testing.assert_array_equal(fps, [8, 16, 16, 16])
    assert list(keys) == [key_for(5, number, "clip") for number in (1, 2, 3, 4)]


def test_other_samplers_and_guidance_compile_nothing(on_one_device):
    """Beyond one program for a number of steps; guidance 1 after another scale uses what is there."""
    generator, params, mesh = generator_and_params(MeshConfig(), 1)
    usual = SampleConfig(Sampler.DDIM, steps=3)
    changes = [
        {"guidance": 3.0},
        {"sampler": Sampler.DDPM},
        {"sampler": Sampler.EULER},
        {"sampler": Sampler.DPM},
        {"eta": 0.5},
        {"guidance_rescale": 0.7},
        {"guidance": 1.0},
    ]
    clips = [generator.generate(params, REQUEST, replace(usual, **change)) for change in changes]
    assert generator.program(mesh)._cache_size() == 1
    for i, one in enumerate(clips):
        assert all((one != other).any() for other in clips[i + 1 :])
    generator.generate(params, REQUEST, replace(usual, steps=2))
    assert generator.program(mesh)._cache_size() == 2


LONG = SampleConfig(
    Sampler.DDPM,
    steps=3,
    context=ContextConfig(frames=2, overlap=1, reuse_noise=True),
    free_init=FreeInitConfig(iterations=2),
)


def test_a_clip_may_be_longer_than_those_of_training_in_windows():
    generator, params, mesh = generator_and_params(MeshConfig(), 1, frames=5)
    with pytest.raises(UserError, match=r"--frames=5: .* know 2 frames; .*--context_frames=2"):
        generator.generate(params, REQUEST, replace(LONG, context=ContextConfig()))
    with pytest.raises(UserError, match=r"--context_frames=3: .* know 2 frames"):
        generator.generate(params, REQUEST, replace(LONG, context=ContextConfig(3, overlap=1)))
    clips = generator.generate(params, REQUEST, LONG)
    assert clips.shape == (3, 5, 16, 16, 3)
    assert len(np.unique(clips)) > 50
    again = replace(LONG, free_init=FreeInitConfig(iterations=3, spatial_stop=0.5), guidance=2.0)
    assert (generator.generate(params, REQUEST, again) != clips).any()
    assert generator.program(mesh)._cache_size() == 1


def test_motion_modules_may_attend_in_windows_of_a_longer_clip():
    free_noise = ContextConfig(2, fuse=ContextFusion.ATTENTION, reuse_noise=True)
    generator, params, _ = generator_and_params(MeshConfig(), 1, frames=5)
    with pytest.raises(UserError, match="--context_fuse=attention: this is for models whose only"):
        generator.generate(params, REQUEST, replace(LONG, context=free_noise))
    generator, params, _ = generator_and_params(MeshConfig(), 1, frames=5, temporal=MOTION)
    with pytest.raises(UserError, match=r"--frames=5: .* know 2 frames"):
        generator.generate(params, REQUEST, SampleConfig(steps=3))
    clips = generator.generate(params, REQUEST, SampleConfig(steps=3, context=free_noise))
    assert clips.shape == (3, 5, 16, 16, 3)
    assert len(np.unique(clips)) > 50


@pytest.mark.slow
def test_eight_devices_make_the_long_clips_of_one():
    one, params, _ = generator_and_params(MeshConfig(), 1, frames=5)
    expected = one.generate(params, REQUEST, LONG)
    generator, params, _ = generator_and_params(MeshConfig(1, 8, 1), 8, frames=5)
    made = generator.generate(params, REQUEST, LONG)
    assert np.max(np.abs(made.astype(int) - expected)) <= 1


def test_windows_change_nothing_of_a_clip_that_fits_one(on_one_device):
    generator, params, _ = generator_and_params(MeshConfig(), 1)
    fits = SampleConfig(Sampler.DDPM, steps=3, context=ContextConfig(2, overlap=1))
    np.testing.assert_array_equal(generator.generate(params, REQUEST, fits), on_one_device)


def test_guidance_of_one_is_the_network_without_guidance():
    generator, params, mesh = generator_and_params(MeshConfig(), 1)
    none = SampleConfig(Sampler.DDIM, steps=2, guidance=1.0)
    alone = generator.generate(params, REQUEST, none)
    generator.generate(params, REQUEST, replace(none, guidance=2.0))
    assert generator.program(mesh)._cache_size() == 2
    in_both_passes = generator.generate(params, REQUEST, none)
    assert generator.program(mesh)._cache_size() == 2
    assert np.max(np.abs(alone.astype(int) - in_both_passes)) <= 1
