"""Classifier-free guidance: a denoiser made of a denoiser.

    e = e_null + w (e_told - e_null) = e_told + (w - 1) (e_told - e_null)     (1)  Ho & Salimans 2207.12598, eq. 6
    e' = e std(e_told) / std(e)                                               (2)  Lin et al. 2305.08891, eq. 14, 15
    phi e' + (1 - phi) e                                                      (3)  its eq. 16

The paper's own w of 2207.12598 is one less than the `scale` that Stable Diffusion made usual and eq. 1 has.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Denoise


def guided(denoise: Denoise, scale: float, null_condition: Any, *, rescale: float = 0.0) -> Denoise:
    """`denoise`, told its condition `scale` times; both passes run as one batch.

    `null_condition` is what the network is told when the prompt is dropped, of the condition's shapes or with a batch
    of 1; `rescale` is phi of eq. 3. A scale of 1 is `denoise` itself.
    """
    if not 0 <= rescale <= 1:
        raise UserError(f"rescale={rescale}: give 0 to 1")
    if scale == 1:
        return denoise

    def wrapped(
        z: Float[Array, "b *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b *axes"]:
        conditions = jax.tree.map(_beside, null_condition, condition)
        both = denoise(jnp.repeat(z, 2, axis=0), jnp.repeat(time, 2), conditions)
        pairs = both.astype(jnp.float32).reshape(-1, 2, *both.shape[1:])
        null, told = pairs[:, 0], pairs[:, 1]
        pushed = told + (scale - 1) * (told - null)
        if rescale:
            ratio = _deviation(told) / _deviation(pushed)
            pushed = pushed * (rescale * ratio + (1 - rescale))
        return pushed.astype(both.dtype)

    return wrapped


def _beside(null: Float[Array, "..."], told: Float[Array, "b *axes"]) -> Float[Array, "b2 *axes"]:
    """The two passes of an example as neighbours: a batch spread over devices then stays where it is."""
    return jnp.stack([jnp.broadcast_to(null, told.shape), told], axis=1).reshape(
        -1, *told.shape[1:]
    )


def _deviation(e: Float[Array, "b *axes"]) -> Float[Array, "b *ones"]:
    return jnp.std(e, axis=tuple(range(1, e.ndim)), keepdims=True)
