"""Frames of a clip that are known beforehand, as channels that a network reads beside noisy latents.

    given^i = [m^i z^i, m^i],   m^i = 1 where frame i is known, else 0        (1)

The first frame known makes a clip of a picture, the first and the last what lies between two, and
the first k go on with a clip. Where no frame is known, all channels are zero, which a network
trained with them reads as if it were given none.

A sampler's own latents of known frames are about those it was given: in the end the given ones take
their place.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def known_frame_channels(
    z: Float[Array, "b t h w c"], is_known: Bool[Array, "b t"]
) -> Float[Array, "b t h w c2"]:
    """Latents and mask of known frames (eq. 1), with c2 = c + 1."""
    mask = jnp.broadcast_to(is_known[:, :, None, None, None], (*z.shape[:-1], 1))
    return jnp.concatenate([jnp.where(mask, z, 0), mask.astype(z.dtype)], axis=-1)


def with_known_frames(
    z: Float[Array, "b t h w c"], given: Float[Array, "b t h w c2"]
) -> Float[Array, "b t h w c"]:
    """Latents in which known frames are those of the channels `given` (eq. 1)."""
    return jnp.where(given[..., -1:] > 0, given[..., :-1], z).astype(z.dtype)
