"""Clipping by the global norm of gradients (Pascanu et al. 1211.5063), in few kernels on GPUs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from magicvideo_jax.parallel.constraints import is_sharded
from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu

_SMALL = 2**14
"""Elements of an array that is worth a kernel."""


def small_together(gradients: Any) -> Any:
    """Gradients for a sum over all of them: on one GPU the small ones, about half of a U-Net's, as
    one array, since the sum of each array is a kernel. On several they would be moved for it.
    """
    if not is_traced_for_gpu() or is_sharded():
        return gradients
    leaves = jax.tree.leaves(gradients)
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size < _SMALL]
    large = [leaf for leaf in leaves if leaf.size >= _SMALL]
    return [*large, jnp.concatenate(small)] if small else large


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, with the norm of `small_together`."""
    if not is_traced_for_gpu():
        return optax.clip_by_global_norm(largest)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = optax.tree.norm(small_together(updates))

        def clip(g: Array) -> Array:
            return jnp.where(norm < largest, g, g / norm.astype(g.dtype) * largest)

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
