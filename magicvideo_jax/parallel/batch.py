"""Batches on the mesh: examples are sharded over `data` and `fsdp`, frames of clips over `frames`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.parallel.constraints import BATCH_AXES, FRAMES_AXIS
from magicvideo_jax.parallel.mesh import batch_shards, replicated


def check_batch(
    batch_size: int, mesh: Mesh | AbstractMesh, *, accumulate: int = 1, frames: int = 1
) -> None:
    """Check that a mesh divides a global batch, and clips of `frames` frames.

    Devices that share a clip process one clip at a time. Errors: `UserError` naming the field.
    """
    shards = batch_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"config.train.batch_size={batch_size}: give a multiple of {shards} "
            f"(mesh data x fsdp = {batch_shards(mesh)}, train.accumulate = {accumulate})"
        )
    ways = mesh.shape["frames"]
    if ways == 1:
        return
    if frames % ways:
        raise UserError(
            f"config.mesh.frames={ways}: clips of {frames} frames are not divisible by it; give a "
            "divisor, or 1 for images"
        )
    at_once = batch_size // shards
    if at_once > 1:
        # Layers within frames merge the axes (b t), for which XLA would gather sharded frames.
        raise UserError(
            f"config.train.batch_size={batch_size}: with mesh.frames={ways} devices process one "
            f"clip at a time: give {shards}, or train.accumulate={accumulate * at_once}"
        )


def batch_sharding(mesh: Mesh | AbstractMesh, shape: Sequence[int]) -> NamedSharding:
    """Sharding of a batch array: examples over `data` and `fsdp`, frames of clips over `frames`.

    Arrays with five axes (b t h w c) and more than one frame are clips.
    """
    is_clips = len(shape) == 5 and shape[1] > 1
    axes = (BATCH_AXES, FRAMES_AXIS) if is_clips else (BATCH_AXES,)
    return NamedSharding(mesh, PartitionSpec(*axes))


@functools.cache
def local_rows(batch_size: int, mesh: Mesh) -> Int[np.ndarray, "n"]:
    """Rows of a global batch that the devices of this process hold, in ascending order.

    Processes hold the same rows where they share the frames of clips.
    """
    sharding = batch_sharding(mesh, (batch_size,))
    local = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in local]))


def shard_batch(batch: Any, mesh: Mesh, batch_size: int) -> Any:
    """Global arrays from the rows of this process, which are numpy arrays in the order of
    `local_rows`.
    """
    rows = local_rows(batch_size, mesh)

    def put(x: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            shard_rows = np.arange(batch_size)[index[0]]
            first = int(np.searchsorted(rows, shard_rows[0]))
            return x[(slice(first, first + len(shard_rows)), *index[1:])]

        shape = (batch_size, *x.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(mesh, shape), shard)

    return jax.tree.map(put, batch)


def fetch_to_host(x: jax.Array | np.ndarray, rows: int | None = None) -> np.ndarray:
    """A global array, or its first `rows` rows, as numpy on every process; numpy arrays pass
    through.

    Where several processes share the array, every device holds all that is fetched.
    """
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        if rows is None:
            return np.asarray(process_allgather(x, tiled=True))
        assert isinstance(x.sharding, NamedSharding)
        x = _first_rows(x.sharding.mesh)(x, rows)
    return np.asarray(x)[:rows]


@functools.cache
def _first_rows(mesh: Mesh) -> Any:
    """`f(x, rows)`, jitted once per mesh: the first rows of a global array, replicated."""
    return jax.jit(lambda x, rows: x[:rows], static_argnums=1, out_shardings=replicated(mesh))
