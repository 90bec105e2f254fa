"""The device mesh: the model is replicated over `data`, parameters are sharded over `fsdp`, frames
over `frames`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from magicvideo_jax.core.checks import at_least, refused
from magicvideo_jax.core.errors import UserError


@dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis.

    One axis may be -1: all devices that the others leave.
    """

    data: int = -1
    fsdp: int = 1
    frames: int = 1
    fsdp_min_size: int = 2**14
    """Parameters with fewer numbers are replicated: cheaper than gathering them."""

    def __post_init__(self) -> None:
        axes = ("data", "fsdp", "frames")
        at_least(1, self, "fsdp_min_size")
        at_least(1, self, *(axis for axis in axes if getattr(self, axis) != -1))
        free = [axis for axis in axes if getattr(self, axis) == -1]
        if len(free) > 1:
            raise refused(self, free[-1], "give a positive number, or -1 for one axis only")


def make_mesh(shape: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh over the given devices, or all devices, in the order that suits their network.

    Of several TPU slices each holds complete copies of the model, so that only `data` crosses the
    slower network between slices.

    Errors: `UserError` where the sizes do not fit the devices or the slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = _resolved(shape, len(devices), slices)
    within = (sizes["data"] // slices, sizes["fsdp"], sizes["frames"])
    # A mesh axis may use part of a torus' side, such as fsdp=8 on 16x16, which `jax.make_mesh`
    # refuses except on v5e.
    if slices > 1:
        arranged = create_hybrid_device_mesh(
            within, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        arranged = create_device_mesh(within, devices, allow_split_physical_axes=True)
    return Mesh(arranged, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def abstract_mesh(shape: MeshConfig, devices: int, slices: int = 1) -> AbstractMesh:
    """Mesh of a number of devices that need not exist, to compute shardings.

    Errors: those of `make_mesh`.
    """
    sizes = _resolved(shape, devices, slices)
    return AbstractMesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded_over_all(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of shards of the batch axis."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _resolved(shape: MeshConfig, devices: int, slices: int) -> dict[str, int]:
    sizes = {"data": shape.data, "fsdp": shape.fsdp, "frames": shape.frames}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes |= {free[0]: devices // fixed}
        fixed *= sizes[free[0]]
    if fixed != devices:
        line = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(
            f"config.mesh ({line}) needs {fixed} devices but there are {devices}: give sizes whose product is "
            f"{devices}"
        )
    if sizes["data"] % slices:
        raise UserError(
            f"config.mesh.data={sizes['data']}: give a multiple of {slices}, the number of slices"
        )
    return sizes
