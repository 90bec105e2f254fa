"""Clips from a model spread over eight devices: each device makes its own, and they are those of one device."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import tiny

from magicvideo_jax.experiment.abstract import any_ids
from magicvideo_jax.experiment.generate import Generator, Request
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.workfolder import shapes_of
from magicvideo_jax.parallel import rules
from magicvideo_jax.parallel.collectives import collectives
from magicvideo_jax.parallel.mesh import MeshShape, make_mesh
from magicvideo_jax.parallel.rules import in_places
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

CLIPS = 3
REQUEST = Request(prompts=["a", "b", "c"], fps=[4.0, 8.0, 16.0], seed=5)


def generator_and_params(shape: MeshShape, devices: int, sampler: Sampler = Sampler.DDPM):
    experiment = tiny(sample=SampleConfig(sampler, steps=3))
    networks = Networks(experiment.model)
    mesh = make_mesh(shape, jax.devices()[:devices])
    places = in_places(shapes_of(networks, experiment), mesh)
    params = jax.device_put(random_params(places), jax.tree.map(lambda x: x.sharding, places))
    tokenize = any_ids(experiment.model.text.tokens)
    return Generator(experiment, networks, tokenize, at_once=2), params, mesh


@pytest.fixture(scope="module")
def on_one_device():
    generator, params, mesh = generator_and_params(MeshShape(), 1)
    assert generator.at_once(mesh) == 2
    return generator.generate(params, REQUEST)


@pytest.mark.parametrize("shape", [MeshShape(), MeshShape(1, 8, 1), MeshShape(2, 2, 2)], ids=str)
def test_eight_devices_make_the_clips_of_one(shape, on_one_device, monkeypatch):
    monkeypatch.setattr(rules, "SMALLEST_SPREAD", 64)
    generator, params, mesh = generator_and_params(shape, 8)
    assert generator.at_once(mesh) == 8
    made = generator.generate(params, REQUEST)
    assert made.shape == on_one_device.shape
    assert len(np.unique(made)) > 50
    # One rounding apart, in pixels.
    assert np.max(np.abs(made.astype(int) - on_one_device)) <= 1
    program = generator.program(mesh).lower(params, *generator.inputs(REQUEST, 0, 8)).compile().as_text()
    kinds = {one.kind for one in collectives(program, 8)}
    assert kinds == ({"all-gather"} if shape.fsdp > 1 else set())


def test_a_clip_is_the_same_whatever_stands_beside_it(on_one_device):
    """Also of a sampler that adds noise at every step."""
    generator, params, _ = generator_and_params(MeshShape(), 1)
    alone = generator.generate(params, replace(REQUEST, prompts=["a"], fps=[4.0]))
    assert np.max(np.abs(alone[0].astype(int) - on_one_device[0])) <= 1
    assert np.mean(on_one_device[0] != on_one_device[1]) > 0.5
