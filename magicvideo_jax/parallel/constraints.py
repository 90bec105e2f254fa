"""Constraints on shardings, of activations and of parameters where they are used, and on layouts.

Those on shardings refer to the mesh of `jax.set_mesh` around tracing, and do nothing without one or on a single
device.

Layers within frames shard the frames of a clip over devices, layers across frames shard its
pixels. XLA inserts an all-to-all where one follows the other; without constraints it would gather
whole clips.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu

BATCH_AXES, FRAMES_AXIS = ("data", "fsdp"), "frames"
"""Mesh axes over which a batch is sharded, and the mesh axis over which one clip is."""


def shard_activations(x: Float[Array, "b *rest"], axis: int = 1) -> Float[Array, "b *rest"]:
    """Shard activations by clip, and an axis, frames or pixels, over the devices that share a clip.

    Where `frames` does not divide that axis, as for single images, it is not sharded.
    """
    if not is_sharded():
        return x
    ways = jax.sharding.get_abstract_mesh().shape[FRAMES_AXIS]
    axes: list[Any] = [BATCH_AXES, *(None,) * (axis - 1)]
    axes += [FRAMES_AXIS] * (x.shape[axis] % ways == 0)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def sharding_activations(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A function to be jitted whose constraints refer to a mesh, wherever it is traced."""

    def on_mesh(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return on_mesh


def on_own_clips(function: Callable[..., Array], params: Any, x: Float[Array, "b *rest"]) -> Array:
    """`function(params, x)` of clips that each device computes for its own, without sharing them."""
    clips = PartitionSpec(BATCH_AXES)
    return jax.shard_map(
        function, in_specs=(PartitionSpec(), clips), out_specs=clips, check_vma=False
    )(params, x)


def gather_parameter(parameter: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gather a sharded parameter where it is used; its gradient is reduced to the shards without
    being gathered.

    Without this XLA might move the activations instead, whose size grows with the batch.
    """
    return _gathered(parameter) if is_sharded() else parameter


@jax.custom_vjp
def _gathered(parameter: Array) -> Array:
    return jax.lax.with_sharding_constraint(parameter, PartitionSpec())


# The constraint's own transpose would also gather the gradient: an all-reduce of all of it, then a
# slice.
_gathered.defvjp(lambda parameter: (_gathered(parameter), None), lambda _, gradient: (gradient,))


def cast_kernel(kernel: Float[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """Cast a convolution's kernel for use. On a GPU its gradient is written once in the order of
    its axes, in that dtype.

    cuDNN computes the gradient in another order. XLA would update parameters, moments and average
    in that order, and transpose all of them in and out in each step. On one device alone: what
    XLA's partitioner makes of such a constraint has not been measured.
    """
    if not is_traced_for_gpu() or is_sharded():
        return kernel.astype(dtype)
    return _cast_in_order(kernel, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _cast_in_order(kernel: Array, dtype: DTypeLike) -> Array:
    return kernel.astype(dtype)


def _in_order(dtype: DTypeLike, _: None, gradient: Array) -> tuple[Array]:
    laid_out = with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))
    return (jax.lax.optimization_barrier(laid_out).astype(jnp.float32),)


_cast_in_order.defvjp(lambda kernel, dtype: (kernel.astype(dtype), None), _in_order)


def shares_clips() -> bool:
    """Whether a program is traced for a mesh on which several devices share each clip."""
    return is_sharded() and jax.sharding.get_abstract_mesh().shape[FRAMES_AXIS] > 1


def is_sharded() -> bool:
    """Whether a program is traced for a mesh of several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    # Inside `jax.shard_map` axes are manual: each device computes alone.
    return mesh.size > 1 and AxisType.Auto in mesh.axis_types
