"""Meshes, places, and one train step on eight fake devices."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.parallel.batch import (
    batch_sharding,
    check_batch,
    fetch_to_host,
    shard_batch,
)
from magicvideo_jax.parallel.constraints import gather_parameter, shard_activations
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import parameter_shardings, shard_largest_axis
from magicvideo_jax.planning.collectives import find_collectives
from magicvideo_jax.training.adversarial import balance_gradients
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import OptimConfig, make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import train_step

MESHES = [
    MeshConfig(8, 1, 1),
    MeshConfig(1, 8, 1),
    MeshConfig(2, 2, 2),
    MeshConfig(4, 1, 2),
    MeshConfig(-1, 4, 1),
]


def objective(params, batch, key, step):
    noise = jax.random.normal(key, batch["clips"].shape)
    error = (batch["clips"] + 0.1 * noise) @ params["w"] - 1.0
    return jnp.square(error).mean(), {}


def steps_on(mesh, number=3):
    optimizer = make_optimizer(OptimConfig(lr=1e-2, warmup=1), steps=10)
    params = {"w": np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)}
    placed = jax.device_put(params, parameter_shardings(params, mesh))
    state = jax.jit(partial(fresh_state, optimizer=optimizer))(placed)
    step = jax.jit(
        partial(train_step, objective=objective, optimizer=optimizer, ema_decay=0.9, seed=0)
    )
    for i in range(number):
        clips = np.random.default_rng(i).standard_normal((8, 2, 2, 2, 128)).astype(np.float32)
        state, _ = step(state, shard_batch({"clips": clips}, mesh, 8))
    return state


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_steps_on_eight_devices_equal_those_on_one(shape):
    one = jax.make_mesh((1, 1, 1), ("data", "fsdp", "frames"), devices=jax.devices()[:1])
    ours, reference = steps_on(make_mesh(shape)), steps_on(one)
    for name in ("params", "ema"):
        np.testing.assert_allclose(
            getattr(ours, name)["w"], getattr(reference, name)["w"], rtol=1e-5, atol=1e-6
        )


def test_a_gradient_is_summed_where_it_is_kept():
    """Gradients are reduced over `fsdp` to the part that a device keeps, and only that part over `data`."""
    mesh = make_mesh(MeshConfig(2, 4, 1))
    kernel = jax.ShapeDtypeStruct((512, 256), jnp.float32)
    places = parameter_shardings({"w": kernel}, mesh)["w"], batch_sharding(mesh, (64, 64, 512))

    def descend(w: jax.Array, x: jax.Array) -> jax.Array:
        return w - jax.grad(
            lambda w: jnp.square(shard_activations(x @ gather_parameter(w))).mean()
        )(w)

    with jax.set_mesh(mesh):
        step = jax.jit(descend, in_shardings=places, out_shardings=places[0])
        program = (
            step.lower(kernel, jax.ShapeDtypeStruct((64, 64, 512), jnp.float32)).compile().as_text()
        )
    found = sorted((c.kind, c.group, c.bytes) for c in find_collectives(program, 8))
    size = 4 * 512 * 256
    assert found == [("all-gather", 4, size), ("all-reduce", 2, size // 4), ("all-reduce", 4, size)]


def test_parameters_are_spread_over_fsdp_and_small_ones_copied():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    assert shard_largest_axis((3, 3, 64, 128), mesh) == PartitionSpec(None, None, None, "fsdp")
    assert shard_largest_axis((1024, 9), mesh) == PartitionSpec()  # under 2^14 numbers
    assert shard_largest_axis((1024, 9), mesh, min_size=9216) == PartitionSpec("fsdp", None)
    assert shard_largest_axis((1001, 1003), mesh) == PartitionSpec()  # nothing that 8 divides
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)}}
    kernel = jax.device_put(
        np.zeros((256, 512), np.float32), flatten(parameter_shardings(shapes, mesh))["a.kernel"]
    )
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(256, 64)}


def test_a_batch_lies_over_data_and_frames():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = shard_batch(
        {"clips": np.zeros((8, 4, 2, 2, 3), np.float32), "ids": np.zeros((8, 5), np.int32)}, mesh, 8
    )
    assert {shard.data.shape for shard in placed["clips"].addressable_shards} == {(2, 2, 2, 2, 3)}
    assert {shard.data.shape for shard in placed["ids"].addressable_shards} == {(2, 5)}


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (MeshConfig(3, 1, 1), "needs 3 devices but there are 8"),
        (MeshConfig(-1, 3, 1), "there are 8"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(shape, said):
    with pytest.raises(UserError, match=said):
        make_mesh(shape)


@dataclass(frozen=True)
class Chip:
    """What JAX looks at in a TPU to arrange it."""

    id: int
    coords: tuple[int, ...]
    slice_index: int
    device_kind: str
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"


@pytest.mark.parametrize(
    ("kind", "sides", "slices", "shape"),
    [
        ("TPU v6 lite", (16, 16, 1), 1, MeshConfig(fsdp=8)),
        ("TPU v6 lite", (8, 8, 1), 2, MeshConfig(fsdp=16, frames=2)),
        ("TPU v5", (4, 4, 4), 1, MeshConfig(fsdp=8)),
        ("TPU v5 lite", (16, 16, 1), 1, MeshConfig(fsdp=8, frames=4)),
    ],
)
def test_chips_that_share_a_model_are_neighbours(kind, sides, slices, shape):
    """Also where an axis of the mesh is no product of the torus' sides."""
    places = [(of_slice, position) for of_slice in range(slices) for position in np.ndindex(*sides)]
    chips = [Chip(i, position, of_slice, kind) for i, (of_slice, position) in enumerate(places)]
    mesh = make_mesh(shape, chips)
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(len(chips)))
    for group in mesh.devices.reshape(mesh.shape["data"], -1):
        assert len({chip.slice_index for chip in group}) == 1
        corners = np.array([chip.coords for chip in group])
        assert np.prod(np.ptp(corners, axis=0) + 1) == len(group)


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"train\.batch_size=12: give a multiple of 16"):
        check_batch(12, make_mesh(MeshConfig(8, 1, 1)), accumulate=2)


def test_a_checkpoint_of_eight_devices_is_read_on_one(tmp_path):
    mesh = make_mesh(MeshConfig(1, 8, 1))
    state = steps_on(mesh)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, state, position={"next_index": 3}, config={})
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=alone), state)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        restored, position = checkpoints.restore(places)
    assert position == {"next_index": 3}
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert restored.params["w"].sharding == alone


def test_balancing_gradients_gathers_none_of_them():
    """Their norms are sums over shards: no device needs the gradients of another."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    clips = jax.ShapeDtypeStruct(
        (8, 4, 16, 16, 3), jnp.float32, sharding=batch_sharding(mesh, (8, 4, 16, 16, 3))
    )

    def gradient(x: jax.Array) -> jax.Array:
        first, second = (
            jax.vjp(lambda x: balance_gradients(x, jnp.float32(0.5)), x)[1](
                (jnp.sin(x), jnp.cos(x))
            )[0],
            x,
        )
        return first + second

    program = jax.jit(gradient).lower(clips).compile().as_text()
    kinds = {collective.kind for collective in find_collectives(program, 8)}
    assert kinds == {"all-reduce"}


def test_fetching_rows_of_one_shape_compiles_once(monkeypatch):
    """An array as several processes have it, none of which holds all of it."""
    mesh = make_mesh(MeshConfig(8, 1, 1))
    x = jax.device_put(np.arange(16.0), batch_sharding(mesh, (16,)))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    monkeypatch.setattr(type(x), "is_fully_addressable", False)
    for _ in range(3):
        np.testing.assert_array_equal(fetch_to_host(x, 3), [0, 1, 2])
    jax.monitoring.clear_event_listeners()
    assert len(compiled) == 1
