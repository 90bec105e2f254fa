"""Global norm of gradients, and clipping by it (Pascanu et al. 1211.5063)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from magicvideo_jax.parallel.mesh import MeshConfig
from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu

_SMALL = MeshConfig.fsdp_min_size
"""Arrays of fewer elements are not sharded."""


def global_norm(gradients: Any) -> Float[Array, ""]:
    """L2 norm of all gradients together.

    On GPUs the small ones, about half of a U-Net's, are one array first: each sum is a kernel.
    """
    if not is_traced_for_gpu():
        return optax.tree.norm(gradients)
    leaves = jax.tree.leaves(gradients)
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size < _SMALL]
    large = [leaf for leaf in leaves if leaf.size >= _SMALL]
    return optax.tree.norm([*large, jnp.concatenate(small)] if small else large)


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by `global_norm`."""

    def update(gradients: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, Any]:
        norm = global_norm(gradients)

        def clip(g: Array) -> Array:
            return jnp.where(norm < largest, g, g / norm.astype(g.dtype) * largest)

        return jax.tree.map(clip, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
