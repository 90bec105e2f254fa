"""The device mesh: `data` copies of the model, its parameters spread over `fsdp`, a clip's frames over `frames`."""

import math
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from magicvideo_jax.core.errors import UserError


@dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one axis may be -1: what the others leave."""

    data: int = -1
    fsdp: int = 1
    frames: int = 1


def make_mesh(shape: MeshShape) -> Mesh:
    """All devices, in the order XLA finds best. Errors: sizes that do not fit the devices; several hosts."""
    if jax.process_count() > 1:
        raise UserError("several hosts: batches are placed for one host only so far; run on one")
    sizes = _resolved(shape, jax.device_count())
    axes = tuple(sizes)
    return jax.make_mesh(tuple(sizes.values()), axes, axis_types=(AxisType.Auto,) * len(axes))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """How many ways the batch axis is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _resolved(shape: MeshShape, devices: int) -> dict[str, int]:
    sizes = {"data": shape.data, "fsdp": shape.fsdp, "frames": shape.frames}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wrong = [axis for axis, size in sizes.items() if size == 0 or size < -1]
    if wrong or len(free) > 1:
        axis = (wrong or free)[-1]
        raise UserError(f"mesh.{axis}={sizes[axis]}: give a positive number, or -1 for one axis only")
    if free:
        sizes |= {free[0]: devices // fixed}
        fixed *= sizes[free[0]]
    if fixed != devices:
        line = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(f"mesh ({line}) wants {fixed} devices and there are {devices}: the product must equal it")
    return sizes
