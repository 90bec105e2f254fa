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
from magicvideo_jax.experiment.run_folder import shapes_of
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.planning.collectives import collectives
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

REQUEST = SampleRequest(prompts=["a", "b", "c"], fps=[4.0, 8.0, 16.0], negative="dull", seed=5)


def tokenize(prompts):
    """Another row for each."""
    return np.array(
        [[(7 * ord(prompt[0]) + i) % 50 for i in range(24)] for prompt in prompts], np.int32
    )


def generator_and_params(shape: MeshConfig, devices: int):
    experiment = tiny(sample=SampleConfig(Sampler.DDPM, steps=3))
    networks = Networks(experiment.model)
    mesh = make_mesh(shape, jax.devices()[:devices])
    places = with_shardings(shapes_of(networks, experiment), mesh, min_size=64)
    params = jax.device_put(random_params(places), jax.tree.map(lambda x: x.sharding, places))
    return Generator(experiment, networks, tokenize, at_once=2), params, mesh


@pytest.fixture(scope="module")
def on_one_device():
    generator, params, mesh = generator_and_params(MeshConfig(), 1)
    assert generator.clips_together(mesh) == 2
    return generator.generate(params, REQUEST)


@pytest.mark.parametrize("shape", [MeshConfig(), MeshConfig(1, 8, 1), MeshConfig(2, 2, 2)], ids=str)
def test_eight_devices_make_the_clips_of_one(shape, on_one_device):
    generator, params, mesh = generator_and_params(shape, 8)
    assert generator.clips_together(mesh) == 8
    made = generator.generate(params, REQUEST)
    assert made.shape == on_one_device.shape
    assert len(np.unique(made)) > 50
    # One rounding apart.
    assert np.max(np.abs(made.astype(int) - on_one_device)) <= 1
    program = (
        generator.program(mesh).lower(params, *generator.inputs(REQUEST, 0, 8)).compile().as_text()
    )
    kinds = {one.kind for one in collectives(program, 8)}
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

    generator._programs[mesh] = refuse
    with pytest.raises(
        UserError,
        match=r"preview: out of memory while sampling 2 clips at once \(20G is too much\): give fewer",
    ):
        generator.generate(params, REQUEST, what="preview")


def test_a_program_is_filled_with_its_clips_and_copies_of_the_last():
    generator, _, _ = generator_and_params(MeshConfig(), 1)
    ids, null_ids, fps, keys = generator.inputs(REQUEST, 1, 4)
    np.testing.assert_array_equal(ids, tokenize(["b", "c", "c", "c"]))
    np.testing.assert_array_equal(null_ids, tokenize(["dull"])[0])
    np.testing.assert_array_equal(fps, [8, 16, 16, 16])
    assert list(keys) == [key_for(5, number, "clip") for number in (1, 2, 3, 4)]
