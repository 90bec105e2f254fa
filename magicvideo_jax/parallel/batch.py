"""Batches onto the mesh: examples over `data` and `fsdp`, the frames of clips over `frames`."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.parallel.mesh import batch_shards


def check_batch(batch_size: int, mesh: Mesh, *, accumulate: int = 1) -> None:
    """Errors: a global batch that the mesh does not divide."""
    shards = batch_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"train.batch_size={batch_size}: give a multiple of {shards} "
            f"(mesh data x fsdp = {batch_shards(mesh)}, train.accumulate = {accumulate})"
        )


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Arrays with five axes are clips (b t h w c)."""
    spec = PartitionSpec(("data", "fsdp"), "frames") if ndim == 5 else PartitionSpec(("data", "fsdp"))
    return NamedSharding(mesh, spec)


def place(batch: Any, mesh: Mesh) -> Any:
    """This host's part of a batch (numpy) as global arrays."""

    def put(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(batch_sharding(mesh, x.ndim), x)

    return jax.tree.map(put, batch)
