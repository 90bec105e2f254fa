"""How activations and parameters in use lie over the devices of the mesh that a program is compiled for: the one of
`jax.set_mesh` around its tracing. Without one, or on one device, nothing is said.

Layers within frames have the frames of a clip on different devices; layers across frames have its pixels there. XLA
sends each device what it lacks (an all-to-all) where one meets the other; left alone, it would gather whole clips.
"""

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

BATCH_AXES, FRAMES_AXIS = ("data", "fsdp"), "frames"
"""Axes of the mesh: those that clips are spread over, and the one that a clip is."""


def shard_activations(x: Float[Array, "b n *rest"]) -> Float[Array, "b n *rest"]:
    """Shard clips over the batch axes of the mesh and their second axis, frames or pixels, over the frames axis, where
    that divides it: single images stay whole."""
    if not _is_sharded():
        return x
    ways = jax.sharding.get_abstract_mesh().shape[FRAMES_AXIS]
    axes = (BATCH_AXES, FRAMES_AXIS) if x.shape[1] % ways == 0 else (BATCH_AXES,)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def gather_parameter(parameter: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A parameter that is spread over devices, gathered where it is used: XLA might move the activations instead, which
    a larger batch has more of. Of its gradient each device sums the part that it keeps."""
    return _gathered(parameter) if _is_sharded() else parameter


@jax.custom_vjp
def _gathered(parameter: Array) -> Array:
    return jax.lax.with_sharding_constraint(parameter, PartitionSpec())


# The constraint's own transpose would gather the gradient, too: summed whole over all devices, and then cut.
_gathered.defvjp(lambda parameter: (_gathered(parameter), None), lambda _, gradient: (gradient,))


def _is_sharded() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return (
        mesh.size > 1 and AxisType.Auto in mesh.axis_types
    )  # in `jax.shard_map` every device is alone
