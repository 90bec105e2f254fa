"""Functions that XLA cannot shard, such as Pallas kernels, on each device's shard of activations.

Like `constraints`, this reads the mesh of `jax.set_mesh` around tracing: networks know no mesh.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from magicvideo_jax.parallel.constraints import BATCH_AXES, FRAMES_AXIS, is_sharded


def has_own_shards(batch: tuple[int, ...]) -> bool:
    """Whether each device can compute on its own shard of activations with these batch axes: clips
    first, and where devices share a clip, frames second.

    Without a mesh in a process of several devices the shards are not known.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not is_sharded():
        return not mesh.empty or jax.device_count() == 1
    clips, frames = math.prod(mesh.shape[axis] for axis in BATCH_AXES), mesh.shape[FRAMES_AXIS]
    has_frames = frames == 1 or (len(batch) > 1 and batch[1] % frames == 0)
    return len(batch) > 0 and batch[0] % clips == 0 and has_frames


def on_own_shards(
    function: Callable[..., Array], *arrays: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
    """Result of a function of activations that computes clips and frames independently, each
    device on its own shard (`has_own_shards`).
    """
    if not is_sharded():
        return function(*arrays)
    axes = PartitionSpec(BATCH_AXES, FRAMES_AXIS)
    # Replication need not be checked: nothing is replicated that a gradient would be summed of.
    return jax.shard_map(function, in_specs=axes, out_specs=axes, check_vma=False)(*arrays)
