"""The real step of a tiny network on every mesh of eight devices: the numbers of one device, and who sends what."""

import re
from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import tiny

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run
from magicvideo_jax.models.temporal import (
    LATENT_SHIFT,
    LAVIE,
    MotionModuleConfig,
    TemporalConfig,
    animatediff,
)
from magicvideo_jax.parallel.batch import shard_batch
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.planning.collectives import find_collectives, totals_by_kind
from magicvideo_jax.training.lora import LoRAConfig, LoRALayers
from magicvideo_jax.training.optimizer import Freeze, OptimConfig
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep

FRAMES, STEPS = 8, 5
IN_THE_SUITE = MeshConfig(2, 2, 2)
FACTORISATIONS = [
    MeshConfig(d, f, 8 // (d * f)) if (d, f) != (2, 2) else IN_THE_SUITE
    for d in (1, 2, 4, 8)
    for f in (1, 2, 4, 8)
    if d * f <= 8
]


MAGICVIDEO = TemporalConfig(FRAMES)
ANIMATEDIFF_NORMS = animatediff(
    frames=FRAMES,
    motion=MotionModuleConfig(in_middle=True, norm_over_frames=True),
    norm_over_frames=True,
)
"""Motion modules, and every norm over the frames of a clip, which devices share."""


def run_on(
    shape: MeshConfig,
    devices: int,
    temporal: TemporalConfig = MAGICVIDEO,
    optim: OptimConfig | None = None,
) -> AbstractRun:
    """One clip a device at a time, or eight frames of one clip."""
    experiment = tiny()
    experiment = replace(experiment, optim=optim or experiment.optim)
    unet = replace(experiment.model.unet, temporal=temporal)
    experiment = replace(
        experiment,
        model=replace(experiment.model, unet=unet),
        data=replace(experiment.data, frames=FRAMES, precompute_examples=64),
        train=replace(experiment.train, batch_size=shape.data * shape.fsdp, steps=STEPS),
        mesh=replace(shape, fsdp_min_size=64),  # the parameters of a tiny network are small
    )
    networks = Networks(experiment.model)
    mesh = make_mesh(shape if devices > 1 else MeshConfig(1, 1, 1), jax.devices()[:devices])
    return abstract_run(experiment, networks, mesh)


def train_on(run: AbstractRun) -> tuple[list[float], dict, str]:
    """Losses of five steps, the parameters after them, and the program."""
    shardings = jax.tree.map(lambda x: x.sharding, run.state)
    trained, frozen = run.state.params, run.state.frozen
    trained = jax.device_put(random_params(trained), shardings.params)
    frozen = jax.device_put(random_params(frozen, seed=1), shardings.frozen)
    create = jax.jit(
        partial(fresh_state, optimizer=run.optimizer), out_shardings=shardings._replace(frozen={})
    )
    state, step, losses = (
        create(trained)._replace(frozen=frozen),
        CompiledStep(run.step, run.state),
        [],
    )
    size = run.experiment.train.batch_size
    for number in range(STEPS):
        rng = np.random.default_rng(number)
        batch = {
            name: rng.integers(0, 50, x.shape, np.int32)
            if x.dtype == np.int32
            else np.asarray(rng.standard_normal(x.shape), x.dtype)
            for name, x in run.batch.items()
        }
        state, metrics = step(state, shard_batch(batch, run.mesh, size))
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params), step.program(state, run.batch).as_text()


@cache
def on_one_device(batch_size: int, temporal: TemporalConfig) -> tuple[list[float], dict]:
    losses, params, _ = train_on(run_on(MeshConfig(batch_size, 1, 1), 1, temporal))
    return losses, params


def cases():
    """All meshes; one of them, with the paper's layers, in the quick suite."""
    layers = {"magicvideo": MAGICVIDEO, "animatediff": ANIMATEDIFF_NORMS, "lavie": LAVIE}
    for name, temporal in layers.items():
        for s in FACTORISATIONS:
            quick = s is IN_THE_SUITE and temporal is MAGICVIDEO
            marks = () if quick else (pytest.mark.slow,)
            yield pytest.param(s, temporal, marks=marks, id=f"{name}-{s.data}x{s.fsdp}x{s.frames}")


@pytest.mark.parametrize(("shape", "temporal"), list(cases()))
def test_five_steps_equal_those_of_one_device(shape, temporal):
    run = run_on(shape, 8, temporal)
    if shape.fsdp > 1:
        assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(run.state.params))
    losses, params, program = train_on(run)
    expected, reference = on_one_device(shape.data * shape.fsdp, temporal)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    distance = np.sqrt(
        sum(
            np.sum((a - b) ** 2)
            for a, b in zip(*map(jax.tree.leaves, (params, reference)), strict=True)
        )
    )
    assert distance < 1e-5 * np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(reference)))
    says_what_it_should(run, program)


def test_a_shift_sends_a_third_of_one_frame_each_way():
    """Forward and backward, in every residual block; nothing else of a clip is sent or gathered."""
    run = run_on(MeshConfig(2, 1, 4), 8, LATENT_SHIFT)
    losses, _, program = train_on(run)
    np.testing.assert_allclose(losses, on_one_device(2, LATENT_SHIFT)[0], rtol=1e-5)
    widths = [
        kernel.shape[-1]
        for path, kernel in flatten(run.state.params["unet"]).items()
        if path.endswith("resnet.conv2.kernel")
    ]
    side = run.experiment.data.size // run.experiment.model.vae.factor
    thirds = {4 * (side // 2**level) ** 2 * (width // 3) for width in widths for level in (0, 1)}
    operations = find_collectives(program, 8)
    permutes = [one for one in operations if one.kind == "collective-permute"]
    assert len(permutes) == 4 * len(widths)
    assert {one.bytes for one in permutes} <= thirds
    assert {one.kind for one in operations} == {"collective-permute", "all-reduce"}


@pytest.mark.slow
def test_lora_on_a_mesh_takes_the_steps_of_one_device():
    lora = LoRAConfig(rank=8, layers=LoRALayers.ALL)
    optim = OptimConfig(warmup=1, lr=1e-3, freeze=Freeze.LORA, lora=lora)
    run = run_on(IN_THE_SUITE, 8, optim=optim)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(run.state.params))
    losses, params, _ = train_on(run)
    batch = IN_THE_SUITE.data * IN_THE_SUITE.fsdp
    expected, reference, _ = train_on(run_on(MeshConfig(batch, 1, 1), 1, optim=optim))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, reference)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def says_what_it_should(run: AbstractRun, program: str) -> None:
    """Frames change places with pixels before and after each temporal attention or motion module, forward and
    backward; nothing that has the axes of a clip is gathered."""
    kinds = totals_by_kind(find_collectives(program, 8))
    layers = sum(
        path.endswith(("temporal.to_q.kernel", "motion_module.proj_in.kernel"))
        for path in flatten(run.state.params["unet"])
    )
    assert layers > 0
    assert kinds["all-to-all"]["operations"] == (4 * layers if run.mesh.shape["frames"] > 1 else 0)
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", program)
    of_clips = [
        shape
        for shape in gathered
        if shape.count(",") >= 3 and not shape.startswith(("1,1,", "3,3,"))
    ]
    assert not of_clips
