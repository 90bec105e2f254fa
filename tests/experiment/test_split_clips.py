"""Clips that devices share, of a real network: those of one device, for what the plan says is sent."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import tokenize
from tiny import random_params
from tiny_experiment import tiny

import magicvideo_jax as mv
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Condition
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.requests.clip_making import check_model_request
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.models.temporal import (
    LAVIE_INTERPOLATION,
    TemporalConfig,
    TemporalMask,
    TemporalMixing,
)
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.planning.collectives import find_collectives, totals_by_kind
from magicvideo_jax.planning.plan_text import plan_lines
from magicvideo_jax.planning.program_plan import quick_plan
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.split_traffic import step_exchanges
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.latent_parallel import latent_parallel
from magicvideo_jax.sampling.step_watch import StepWatch

FRAMES, STEPS = 8, 3
REQUEST = SampleRequest(prompts=["a", "b"], fps=[4.0, 8.0], negative="dull", seed=5)
LATENTS = SplitConfig(SplitKind.LATENTS, parts=4)
BIDIRECTIONAL = TemporalConfig(FRAMES, mask=TemporalMask.NONE)
ONE, SHARED = MeshConfig(1, 1, 1), MeshConfig(2, 1, 4)


def experiment_of(split: SplitConfig, temporal: TemporalConfig = BIDIRECTIONAL, **changes: Any):
    experiment = tiny(sample=SampleConfig(steps=STEPS, split=split), **changes)
    levels = (UNetLevelConfig(8, 2),)
    unet = replace(experiment.model.unet, levels=levels, temporal=temporal)
    data = replace(experiment.data, frames=FRAMES)
    return replace(experiment, model=replace(experiment.model, unet=unet), data=data)


class Clips:
    """Latents of two clips that a mesh samples, and the program."""

    def __init__(self, shape: MeshConfig, split: SplitConfig):
        experiment = experiment_of(split)
        networks = Networks(experiment.model)
        mesh = make_mesh(shape, jax.devices()[: shape.data * shape.fsdp * shape.frames])
        shapes = networks.shapes(stage_of(experiment).components(experiment))
        places = with_shardings(shapes, mesh, min_size=64)
        params = jax.device_put(random_params(places), jax.tree.map(lambda x: x.sharding, places))
        generator = Generator(experiment, networks, tokenize, frames=FRAMES, batch_size=1)
        by, count = generator.split(mesh=mesh), len(REQUEST.prompts)
        assert generator.clips_at_once(mesh, by) == (1 if mesh.size == 1 else count)
        if mesh.size == 1:
            self.latents = generator.latents(params, REQUEST)
        else:
            arguments = (*generator.batch(REQUEST, 0, count), generator.settings(mesh=mesh))
            program = generator.program(mesh, decodes=False, by=by)
            compiled = program.lower(params, *arguments).compile()
            self.latents = np.asarray(compiled(params, *arguments))
            self.sent = totals_by_kind(find_collectives(compiled.as_text(), mesh.size))
            self.planned = step_exchanges(
                experiment.sample,
                experiment.model.unet,
                shapes["unet"],
                generator.latent_shape,
                devices=shape.frames,
                itemsize=4,
            )


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return Clips(ONE, SplitConfig()).latents


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, relative to the largest number."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_latents_that_devices_share_are_those_of_one_device_by_the_same_parts(plain):
    """Each of two clips on 2 x 4 devices; a step sends the planned bytes in one all-reduce, and nothing else."""
    emulated, shared = Clips(ONE, LATENTS), Clips(SHARED, LATENTS)
    assert distance(shared.latents, emulated.latents) < 1e-6
    assert distance(emulated.latents, plain) > 1e-3
    planned = shared.planned["latents"]
    for kind, sent in shared.sent.items():
        expected = (planned.operations, planned.bytes_sent) if kind == "all-reduce" else (0, 0)
        assert (sent["operations"], sent["bytes_sent"]) == tuple(STEPS * n for n in expected)


def test_frames_that_devices_share_are_those_of_one_device(plain):
    """Up to rounding; a step's all-to-alls are the planned ones."""
    shared = Clips(SHARED, SplitConfig(SplitKind.FRAMES))
    assert distance(shared.latents, plain) < 1e-5
    planned, sent = shared.planned["frames"], shared.sent["all-to-all"]
    assert sent["operations"] == STEPS * planned.operations
    assert sent["bytes_sent"] == STEPS * planned.bytes_sent
    assert shared.sent["all-gather"]["operations"] == 0


def test_a_split_of_time_changes_nothing_where_frames_do_not_meet():
    """Though every frame has adaptors of its own, and parts do not overlap."""
    experiment = experiment_of(
        replace(LATENTS, overlap=0.0), TemporalConfig(FRAMES, mixing=TemporalMixing.NONE)
    )
    networks, draw = Networks(experiment.model), np.random.default_rng(0)
    params = random_params(networks.shapes(stage_of(experiment).components(experiment)))
    z, text = (
        jnp.asarray(draw.normal(size=size), jnp.float32)
        for size in ((2, FRAMES, 8, 8, 4), (2, 3, 8))
    )
    time, condition = jnp.full(2, 10.0), Condition(text, jnp.full(2, 8.0))

    def denoise(z, time, condition):
        return networks.denoise(params, z, time, condition)

    split = latent_parallel(denoise, None, experiment.sample.split, times=np.float32([10]))
    np.testing.assert_allclose(
        split(z, time, condition), denoise(z, time, condition), rtol=0, atol=1e-5
    )


def test_a_plan_shows_what_is_sent_beside_the_exact_sharding():
    experiment = experiment_of(SplitConfig(SplitKind.LATENTS), mesh=MeshConfig(2, 1, 4))
    lines = list(plan_lines(quick_plan(experiment, parse_topology("v5e:2x4"), ProgramKind.SAMPLE)))
    latents, frames = (
        next(x for x in lines if f"split.by={kind}" in x) for kind in ("latents", "frames")
    )
    assert latents.split()[1:] == ["1", "0.01", "1.50"]
    assert frames.split()[1] == "16"
    alone = quick_plan(
        replace(experiment, mesh=MeshConfig()), parse_topology("v5e:2x4"), ProgramKind.SAMPLE
    )
    assert not any("split.by" in line for line in plan_lines(alone))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ModelRequest("x", split="both"), "--split=both: give one of none, latents, frames"),
        (ModelRequest("x", split="latents", split_parts=-1), "--split_parts=-1: give at least 0"),
        (ModelRequest("x", split="latents", split_axes="x"), "--split_axes=x: give letters of thw"),
        (
            ModelRequest("x", split="latents", split_parts=2, split_overlap=2.0),
            "--split_overlap=2.0: give at most 1, with which",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_weights_are_read(
    request_: ModelRequest, said: str
):
    with pytest.raises(UserError, match=f"^{said}"):
        check_model_request(request_)


def test_a_split_that_does_not_fit_is_named_by_its_argument():
    with pytest.raises(UserError, match=r"^--split_parts=3: give a number that divides the 8 dev"):
        mv.load(split=SplitConfig(SplitKind.LATENTS, parts=3))
    pipe = mv.load(split=SplitConfig(SplitKind.LATENTS))
    with pytest.raises(UserError, match=r"^--split_parts=8: latents have 4 frames: give at most 4"):
        pipe("a red heart moving left", frames=4)
    experiment = experiment_of(LATENTS, LAVIE_INTERPOLATION)
    networks = Networks(experiment.model)
    watched = Generator(
        experiment_of(LATENTS), networks, tokenize, frames=FRAMES, watch=StepWatch(lambda *_: True)
    )
    first = Generator(experiment, networks, tokenize, frames=FRAMES)
    with pytest.raises(UserError, match=r"^config\.sample\.split\.axes=t: give hw: frames of this"):
        first.split()
    with pytest.raises(UserError, match=r"^config\.sample\.split\.by=latents: give none: devices"):
        watched.split(mesh=make_mesh(SHARED))
