"""Functions that XLA cannot shard, such as Pallas kernels, on each device's shard of activations.

Like `constraints`, this reads the mesh of `jax.set_mesh` around tracing: networks know no mesh.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from magicvideo_jax.parallel.constraints import BATCH_AXES, FRAMES_AXIS, is_sharded


def has_own_shards(batch: tuple[int, ...], *, shared_axis: int = 1) -> bool:
    """Whether each device can compute on its own shard of activations with these batch axes: clips
    first, and where devices share a clip, frames or pixels as `shared_axis`.

    Without a mesh in a process of several devices the shards are not known.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not is_sharded():
        return not mesh.empty or jax.device_count() == 1
    clips, ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES), mesh.shape[FRAMES_AXIS]
    is_shared = ways == 1 or (len(batch) > shared_axis and batch[shared_axis] % ways == 0)
    return len(batch) > 0 and batch[0] % clips == 0 and is_shared


def on_own_shards(
    function: Callable[..., Array],
    *arrays: Float[Array, "b ..."],
    shared_axis: int = 1,
    replicated: tuple[Any, ...] = (),
) -> Float[Array, "b ..."]:
    """Result of a function of activations that computes clips, and what `shared_axis` counts,
    independently, each device on its own shard (`has_own_shards`).

    `replicated` are further arguments (arrays or None), which all devices have whole.
    """
    if not is_sharded():
        return function(*arrays, *replicated)
    axes = PartitionSpec(BATCH_AXES, *(None,) * (shared_axis - 1), FRAMES_AXIS)
    whole = jax.tree.map(lambda _: PartitionSpec(), replicated)
    specs = *(axes for _ in arrays), *whole
    # What is replicated is not checked: its gradients are summed over devices.
    return jax.shard_map(function, in_specs=specs, out_specs=axes, check_vma=False)(
        *arrays, *replicated
    )
