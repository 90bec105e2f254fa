"""Classifier-free guidance: a denoiser built from a conditional denoiser.

    e = e_u + w (e_c - e_u) = e_c + (w - 1) (e_c - e_u)                       (1)  Ho & Salimans 2207.12598, eq. 6
    e' = e std(e_c) / std(e)                                                  (2)  Lin et al. 2305.08891, eq. 14, 15
    phi e' + (1 - phi) e                                                      (3)  its eq. 16

e_c is the conditional, e_u the unconditional prediction. The w of 2207.12598 is one less than the
`scale` of eq. 1, which is Stable Diffusion's convention.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Denoise

_SMALLEST = 1e-20
"""Lower bound of a standard deviation that is divided by."""


def guided(
    denoise: Denoise,
    scale: float | Float[Array, "..."],
    null_condition: Any,
    *,
    rescale: float | Float[Array, ""] = 0.0,
    interval: tuple[float | Float[Array, ""], float | Float[Array, ""]] | None = None,
) -> Denoise:
    """Apply classifier-free guidance to a denoiser (eq. 1 to 3).

    Both predictions run as one batch of twice the size. `scale` is w of eq. 1; the number 1, not
    traced, returns `denoise` itself; an array with the rank of z differs by example.
    `null_condition` is the conditioning of the unconditional prediction (the empty or the negative
    prompt), with the shapes of the condition or a batch axis of 1. `rescale` is phi of eq. 3.
    `interval` is the least and the largest time at which guidance applies (Kynkaanniemi et al.
    2404.07724): at others the network is evaluated once, which takes half as long; a batch then has
    one time. All numbers may be traced, so that all values share a program.

    Errors: `UserError` where `rescale` is outside [0, 1].
    """
    if isinstance(rescale, int | float) and not 0 <= rescale <= 1:
        raise UserError(f"rescale={rescale}: give 0 to 1")
    if isinstance(scale, int | float) and scale == 1:
        return denoise

    def with_guidance(
        z: Float[Array, "b *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b *axes"]:
        conditions = jax.tree.map(_interleave, null_condition, condition)
        both = denoise(jnp.repeat(z, 2, axis=0), jnp.repeat(time, 2), conditions)
        pairs = both.astype(jnp.float32).reshape(-1, 2, *both.shape[1:])
        unconditional, conditional = pairs[:, 0], pairs[:, 1]
        e = conditional + (scale - 1) * (conditional - unconditional)
        if not isinstance(rescale, int | float) or rescale:
            deviation = jnp.maximum(_standard_deviation(e), _SMALLEST)
            ratio = _standard_deviation(conditional) / deviation
            e = e * (rescale * ratio + (1 - rescale))
        return e.astype(both.dtype)

    def in_interval(
        z: Float[Array, "b *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b *axes"]:
        least, largest = interval or (-jnp.inf, jnp.inf)
        is_guided = (time[0] >= least) & (time[0] <= largest)
        return jax.lax.cond(is_guided, with_guidance, denoise, z, time, condition)

    return with_guidance if interval is None else in_interval


def _interleave(
    unconditional: Shaped[Array, "..."], conditional: Shaped[Array, "b *axes"]
) -> Shaped[Array, "b2 *axes"]:
    """Interleave the conditions of both predictions, example by example.

    A sharded batch then moves nothing between devices.
    """
    shape = conditional.shape
    pairs = jnp.stack([jnp.broadcast_to(unconditional, shape), conditional], axis=1)
    return pairs.reshape(-1, *shape[1:])


def _standard_deviation(e: Float[Array, "b *axes"]) -> Float[Array, "b *ones"]:
    return jnp.std(e, axis=tuple(range(1, e.ndim)), keepdims=True)
