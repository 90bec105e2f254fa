"""Adversarial losses of a decoder and a discriminator, both updated in one step.

    L_D = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x'))) / 2        L_G = -mean D(x')        (hinge, 1705.02894)

Each loss treats the other network as fixed, so that the gradient of L_D + L_G contains both
updates.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.types import Params

Discriminate = Callable[[Params, Float[Array, "b t h w 3"]], Float[Array, "*p"]]
"""`discriminate(params, x)` scores every patch of clips; positive means real."""

_MAX_RATIO = 1e4
"""Bound on the ratio of two gradient norms."""


def hinge_losses(
    discriminate: Discriminate,
    params: Params,
    decoded: Float[Array, "b t h w 3"],
    real: Float[Array, "b t h w 3"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Losses L_G, whose gradient reaches only `decoded`, and L_D, whose gradient reaches only
    `params`.
    """
    fixed = jax.lax.stop_gradient(params)
    fake_scores = discriminate(params, jax.lax.stop_gradient(decoded))
    real_scores = discriminate(params, real)
    loss_d = (jax.nn.relu(1 - real_scores).mean() + jax.nn.relu(1 + fake_scores).mean()) / 2
    return -discriminate(fixed, decoded).mean(), loss_d


@jax.custom_vjp
def balance_gradients(
    x: Float[Array, "*b"], weight: Float[Array, ""]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Two copies of `x`, for two losses whose gradients are balanced at this point.

    The backward pass scales the gradient of the second to `weight` times the norm of the first,
    whatever the scales of the losses (Défossez et al. 2210.13438, section 3.4).
    """
    del weight
    return x, x


def _forward(x: Array, weight: Array) -> tuple[tuple[Array, Array], Array]:
    return (x, x), weight


def _backward(weight: Array, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
    first, second = gradients
    # A sum of squares, because `ravel` would gather a sharded gradient.
    first_norm, second_norm = (jnp.sqrt(jnp.sum(jnp.square(g))) for g in gradients)
    ratio = jnp.minimum(first_norm / jnp.maximum(second_norm, 1e-20), _MAX_RATIO)
    return first + weight * ratio * second, jnp.zeros_like(weight)


balance_gradients.defvjp(_forward, _backward)
