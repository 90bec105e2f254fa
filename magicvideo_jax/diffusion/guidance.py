"""Classifier-free guidance: a denoiser made of a denoiser.

    e = e_null + w (e_text - e_null) = e_text + (w - 1) (e_text - e_null)     (1)  Ho & Salimans 2207.12598, eq. 6
    e' = e std(e_text) / std(e)                                               (2)  Lin et al. 2305.08891, eq. 14, 15
    phi e' + (1 - phi) e                                                      (3)  its eq. 16

The paper's own w of 2207.12598 is one less than the `scale` that Stable Diffusion made usual and eq. 1 has.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Denoise

_SMALLEST = 1e-20
"""Lower bound of a standard deviation that is divided by."""


def guided(
    denoise: Denoise,
    scale: float | Float[Array, ""],
    null_condition: Any,
    *,
    rescale: float | Float[Array, ""] = 0.0,
) -> Denoise:
    """Eq. 1 to 3 as a denoiser; the conditional and the unconditional pass run as one batch.

    `null_condition` is the condition of an empty prompt, of the condition's shapes or with a batch of 1; `rescale` is
    phi of eq. 3. Both numbers may be traced, so that other values need no other program. With a scale of 1 (a number,
    not traced) the result is `denoise` itself. Errors: `UserError` for a rescale outside 0 to 1.
    """
    if isinstance(rescale, int | float) and not 0 <= rescale <= 1:
        raise UserError(f"rescale={rescale}: give 0 to 1")
    if isinstance(scale, int | float) and scale == 1:
        return denoise

    def wrapped(
        z: Float[Array, "b *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b *axes"]:
        conditions = jax.tree.map(_interleave, null_condition, condition)
        both = denoise(jnp.repeat(z, 2, axis=0), jnp.repeat(time, 2), conditions)
        pairs = both.astype(jnp.float32).reshape(-1, 2, *both.shape[1:])
        unconditional, conditional = pairs[:, 0], pairs[:, 1]
        e = conditional + (scale - 1) * (conditional - unconditional)
        if not isinstance(rescale, int | float) or rescale:
            ratio = _deviation(conditional) / jnp.maximum(_deviation(e), _SMALLEST)
            e = e * (rescale * ratio + (1 - rescale))
        return e.astype(both.dtype)

    return wrapped


def _interleave(
    null: Float[Array, "..."], conditional: Float[Array, "b *axes"]
) -> Float[Array, "b2 *axes"]:
    """The two passes of an example as neighbours: a batch spread over devices then stays where it is."""
    return jnp.stack([jnp.broadcast_to(null, conditional.shape), conditional], axis=1).reshape(
        -1, *conditional.shape[1:]
    )


def _deviation(e: Float[Array, "b *axes"]) -> Float[Array, "b *ones"]:
    return jnp.std(e, axis=tuple(range(1, e.ndim)), keepdims=True)
