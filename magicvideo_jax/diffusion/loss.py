"""Denoising loss of each example, and its weight.

    L_i = w mean((output_i - target_i)^2)                                     (1)
    SNR = alpha^2 / sigma^2                                                   (2)
    w   = min(SNR, gamma) for x_0,  / SNR for eps,  / (SNR + 1) for v         (3)  Hang et al. 2303.09556, section 3.4

Losses stay per example, so that an objective can average them and also report them by diffusion
time.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.diffusion.process import Prediction


def per_example_mse(
    output: Float[Array, "b *axes"], target: Float[Array, "b *axes"]
) -> Float[Array, "b"]:
    """Mean squared error of each example (eq. 1 with w = 1), in float32."""
    error = output.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def min_snr_weight(
    kind: Prediction, *, alpha: Float[Array, "b"], sigma: Float[Array, "b"], gamma: float = 5.0
) -> Float[Array, "b"]:
    """Min-SNR loss weight (eq. 3), rearranged to be defined at alpha = 0: w is 0 there for x_0 and
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
