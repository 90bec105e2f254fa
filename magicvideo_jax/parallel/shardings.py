"""Which axis of each parameter is sharded over `fsdp`: the largest one that it divides."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from magicvideo_jax.parallel.mesh import MeshConfig

_MIN_SIZE = MeshConfig.fsdp_min_size


def parameter_shardings(
    shapes: dict[str, Any], mesh: Mesh | AbstractMesh, *, min_size: int = _MIN_SIZE
) -> dict[str, Any]:
    """A sharding for every leaf of a nested dict of shapes; see `shard_largest_axis`."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, shard_largest_axis(leaf.shape, mesh, min_size=min_size)),
        shapes,
    )


def with_sharding(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """Shape and type of an array (or of a shape) with a sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def with_shardings(
    shapes: dict[str, Any], mesh: Mesh | AbstractMesh, *, min_size: int = _MIN_SIZE
) -> dict[str, Any]:
    """Shapes of parameters with the shardings of `parameter_shardings`."""
    return jax.tree.map(with_sharding, shapes, parameter_shardings(shapes, mesh, min_size=min_size))


def on_local_device(shapes: dict[str, Any]) -> dict[str, Any]:
    """A sharding for every leaf: whole, on this host's own first device."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: here, shapes)


def shard_largest_axis(
    shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, min_size: int = _MIN_SIZE
) -> PartitionSpec:
    """Shard the largest axis that `fsdp` divides; arrays below `min_size` numbers, or without such an axis, are
    replicated."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis in range(len(shape)) if shape[axis] % size == 0]
    if size == 1 or math.prod(shape) < min_size or not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def bytes_per_device(tree: Any) -> int:
    """Bytes that each device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
