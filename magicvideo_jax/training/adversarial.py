"""What a decoder and a discriminator want of each other, as two losses of one step.

    L_D = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x'))) / 2        L_G = -mean D(x')        (hinge, 1705.02894)

Each holds the other's parameters fixed, so that the gradient of L_D + L_G is both updates at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.types import Params

Discriminate = Callable[[Params, Float[Array, "b t h w 3"]], Float[Array, "*p"]]
"""`discriminate(params, x)`: a score for each patch."""

_MOST = 1e4
"""Of the ratio of two gradients."""


def hinge_losses(
    discriminate: Discriminate,
    params: Params,
    made: Float[Array, "b t h w 3"],
    true: Float[Array, "b t h w 3"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_G, whose gradient reaches `made` alone, and L_D, whose gradient reaches `params` alone."""
    fixed = jax.lax.stop_gradient(params)
    of_made, of_true = discriminate(params, jax.lax.stop_gradient(made)), discriminate(params, true)
    tells_apart = (jax.nn.relu(1 - of_true).mean() + jax.nn.relu(1 + of_made).mean()) / 2
    return -discriminate(fixed, made).mean(), tells_apart


@jax.custom_vjp
def balance_gradients(
    x: Float[Array, "*b"], weight: Float[Array, ""]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """`x` twice, for two losses. Backwards the second's gradient has `weight` times the norm of the first's, whatever
    the scales of the losses (at the network's output, as Défossez et al. 2210.13438, section 3.4)."""
    del weight
    return x, x


def _forwards(x: Array, weight: Array) -> tuple[tuple[Array, Array], Array]:
    return (x, x), weight


def _backwards(weight: Array, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
    first, second = gradients
    norm, other = jnp.linalg.norm(first.ravel()), jnp.linalg.norm(second.ravel())
    ratio = jnp.minimum(norm / jnp.maximum(other, 1e-20), _MOST)
    return first + weight * ratio * second, jnp.zeros_like(weight)


balance_gradients.defvjp(_forwards, _backwards)
