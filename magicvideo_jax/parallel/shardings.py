"""Shardings of parameters over the mesh axis `fsdp`."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from magicvideo_jax.core.tree import flatten, unflatten

# A parameter with fewer elements is cheaper to replicate than to gather.
MIN_SHARDED_SIZE = 2**14


def parameter_shardings(shapes: dict[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """Sharding of each parameter, in a nested dict like `shapes`."""
    return unflatten(
        {
            path: NamedSharding(mesh, shard_largest_axis(leaf.shape, mesh))
            for path, leaf in flatten(shapes).items()
        }
    )


def with_sharding(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """Shape and type of an array (or of a shape) with a sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def with_shardings(shapes: dict[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """Shapes of parameters with the shardings of `parameter_shardings`."""
    return jax.tree.map(with_sharding, shapes, parameter_shardings(shapes, mesh))


def on_local_device(shapes: dict[str, Any]) -> dict[str, Any]:
    """Sharding of each leaf on the first local device of this process."""
    first = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: first, shapes)


def shard_largest_axis(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Partition the largest axis that `fsdp` divides; small and indivisible arrays are replicated."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis in range(len(shape)) if shape[axis] % size == 0]
    if size == 1 or math.prod(shape) < MIN_SHARDED_SIZE or not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def bytes_per_device(tree: Any) -> int:
    """Bytes that each device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
