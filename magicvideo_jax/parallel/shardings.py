"""Which axis of which parameter is spread over `fsdp`: rules by path, and a fallback by size."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from magicvideo_jax.core.tree import flatten, unflatten

# Below this a parameter is cheaper to copy than to gather.
MIN_SHARDED_SIZE = 2**14


def parameter_shardings(shapes: dict[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """A sharding for every leaf of a nested dict of shapes."""
    return unflatten(
        {
            path: NamedSharding(mesh, shard_largest_axis(leaf.shape, mesh))
            for path, leaf in flatten(shapes).items()
        }
    )


def with_sharding(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """The shape of an array, or of a shape, where it is to lie."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def with_shardings(shapes: dict[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, Any]:
    """Shapes of parameters, where `parameter_shardings` has them."""
    return jax.tree.map(with_sharding, shapes, parameter_shardings(shapes, mesh))


def on_local_device(shapes: dict[str, Any]) -> dict[str, Any]:
    """A sharding for every leaf: whole, on this host's own first device."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: here, shapes)


def shard_largest_axis(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The largest axis that `fsdp` divides is spread over it; small or indivisible arrays are copied."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis in range(len(shape)) if shape[axis] % size == 0]
    if size == 1 or math.prod(shape) < MIN_SHARDED_SIZE or not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def bytes_per_device(tree: Any) -> int:
    """What every device holds of a tree of shapes in their places."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
