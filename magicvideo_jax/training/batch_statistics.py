"""Running statistics of batch norms, moved by the train step as it moves all parameters.

    L' = L + <m - m', m> - stop(<m - m', m>)       m: statistics, m': what they become, fixed

The sum has the value of L; its gradient for m is m - m', and gradient descent of rate 1, which the
optimizer keeps for these parameters, sets m to m'.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params


def moved_towards(params: Params, moved: Params) -> Float[Array, ""]:
    """Zero, whose gradient moves the statistics among parameters to those `moved`."""
    ours = flatten(params)
    term = sum(
        jnp.sum(jax.lax.stop_gradient(ours[path] - after) * ours[path])
        for path, after in flatten(moved).items()
    )
    return jnp.asarray(term - jax.lax.stop_gradient(term))
