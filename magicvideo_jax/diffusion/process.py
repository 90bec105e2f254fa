"""The forward process, and the three things a network may be taught to predict of it.

    z_t = alpha z_0 + sigma eps,   alpha^2 + sigma^2 = 1                      (1)  Ho et al. 2006.11239, eq. 4
    v   = alpha eps - sigma z_0                                               (2)  Salimans & Ho 2202.00512, appendix D
    z_0 = (z_t - sigma eps) / alpha                                           (3)  eq. 1 solved, given eps
    z_0 = alpha z_t - sigma v                                                 (4)  eq. 1 and 2 solved, given v

`alpha` and `sigma` are one number, or one per example. Everything is computed in float32 and stays float32.
"""

import enum

import jax.numpy as jnp
from jaxtyping import Array, Float


class Prediction(enum.Enum):
    """What the network's output means; the values are the words of diffusers' `prediction_type`."""

    EPS = "epsilon"
    X0 = "sample"
    V = "v_prediction"


Coefficient = Float[Array, ""] | Float[Array, "b"]


def corrupt(
    z0: Float[Array, "b *axes"],
    eps: Float[Array, "b *axes"],
    alpha: Coefficient,
    sigma: Coefficient,
) -> Float[Array, "b *axes"]:
    """Eq. 1: clean latents and noise -> noisy latents."""
    z0, eps = _wide(z0), _wide(eps)
    return _beside(alpha, z0) * z0 + _beside(sigma, z0) * eps


def target(
    kind: Prediction,
    z0: Float[Array, "b *axes"],
    eps: Float[Array, "b *axes"],
    *,
    alpha: Coefficient,
    sigma: Coefficient,
) -> Float[Array, "b *axes"]:
    """What the network should have said (eq. 2 for v)."""
    z0, eps = _wide(z0), _wide(eps)
    match kind:
        case Prediction.EPS:
            return eps
        case Prediction.X0:
            return z0
        case Prediction.V:
            return _beside(alpha, z0) * eps - _beside(sigma, z0) * z0


def to_x0(
    kind: Prediction,
    output: Float[Array, "b *axes"],
    z: Float[Array, "b *axes"],
    *,
    alpha: Coefficient,
    sigma: Coefficient,
) -> Float[Array, "b *axes"]:
    """The clean latents that a network's output implies (eq. 3, 4). EPS says nothing about them where alpha = 0."""
    output, z = _wide(output), _wide(z)
    alpha, sigma = _beside(alpha, z), _beside(sigma, z)
    match kind:
        case Prediction.EPS:
            return (z - sigma * output) / alpha
        case Prediction.X0:
            return output
        case Prediction.V:
            return alpha * z - sigma * output


def _wide(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return x.astype(jnp.float32)


def _beside(coefficient: Coefficient, z: Float[Array, "b *axes"]) -> Float[Array, "..."]:
    """A coefficient with as many axes as the latents it multiplies."""
    return _wide(coefficient).reshape(coefficient.shape + (1,) * (z.ndim - coefficient.ndim))
