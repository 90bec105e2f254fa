"""The forward process, the three quantities that a network may predict, and the loss of a prediction.

    z_t = alpha z_0 + sigma eps,   alpha^2 + sigma^2 = 1                      (1)  Ho et al. 2006.11239, eq. 4
    v   = alpha eps - sigma z_0                                               (2)  Salimans & Ho 2202.00512, appendix D
    z_0 = (z_t - sigma eps) / alpha                                           (3)  eq. 1 solved, given eps
    z_0 = alpha z_t - sigma v                                                 (4)  eq. 1 and 2 solved, given v
    L_i = w mean((output_i - target_i)^2)                                     (5)  the loss of each example
    SNR = alpha^2 / sigma^2                                                   (6)
    w   = min(SNR, gamma) for x_0,  / SNR for eps,  / (SNR + 1) for v         (7)  Hang et al. 2303.09556, section 3.4

`alpha` and `sigma` are scalars or have one entry per example. All functions compute in and return
float32.
"""

import enum

import jax.numpy as jnp
from jaxtyping import Array, Float


class Prediction(enum.Enum):
    """Quantity that a network predicts. The values are those of diffusers' `prediction_type`."""

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
    """Noisy latents z_t (eq. 1)."""
    z0, eps = _float32(z0), _float32(eps)
    return _align(alpha, z0) * z0 + _align(sigma, z0) * eps


def target(
    kind: Prediction,
    z0: Float[Array, "b *axes"],
    eps: Float[Array, "b *axes"],
    *,
    alpha: Coefficient,
    sigma: Coefficient,
) -> Float[Array, "b *axes"]:
    """Regression target of the network: eps, z_0 or v (eq. 2)."""
    z0, eps = _float32(z0), _float32(eps)
    match kind:
        case Prediction.EPS:
            return eps
        case Prediction.X0:
            return z0
        case Prediction.V:
            return _align(alpha, z0) * eps - _align(sigma, z0) * z0


def to_x0(
    kind: Prediction,
    output: Float[Array, "b *axes"],
    z: Float[Array, "b *axes"],
    *,
    alpha: Coefficient,
    sigma: Coefficient,
) -> Float[Array, "b *axes"]:
    """Clean latents implied by a network's output (eq. 3, 4).

    For eps they are undefined at alpha = 0.
    """
    output, z = _float32(output), _float32(z)
    alpha, sigma = _align(alpha, z), _align(sigma, z)
    match kind:
        case Prediction.EPS:
            return (z - sigma * output) / alpha
        case Prediction.X0:
            return output
        case Prediction.V:
            return alpha * z - sigma * output


def per_example_mse(
    output: Float[Array, "b *axes"], target: Float[Array, "b *axes"]
) -> Float[Array, "b"]:
    """Mean squared error of each example (eq. 5 with w = 1), in float32.

    Losses stay per example, so that an objective can also report them by diffusion time.
    """
    error = output.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def min_snr_weight(
    kind: Prediction, *, alpha: Float[Array, "b"], sigma: Float[Array, "b"], gamma: float = 5.0
) -> Float[Array, "b"]:
    """Min-SNR loss weight (eq. 7), rearranged to be defined at alpha = 0: w is 0 there for x_0 and
    v, 1 for eps.
    """
    signal, noise = jnp.square(alpha), jnp.square(sigma)
    match kind:
        case Prediction.X0:
            return jnp.minimum(signal / noise, gamma)
        case Prediction.EPS:
            return jnp.minimum(1.0, gamma * noise / signal)
        case Prediction.V:
            return jnp.minimum(signal, gamma * noise)


def _float32(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return x.astype(jnp.float32)


def _align(coefficient: Coefficient, z: Float[Array, "b *axes"]) -> Float[Array, "..."]:
    """Reshape a coefficient to broadcast against latents."""
    return _float32(coefficient).reshape(coefficient.shape + (1,) * (z.ndim - coefficient.ndim))
