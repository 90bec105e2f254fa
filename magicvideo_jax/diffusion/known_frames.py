"""Frames of a clip that are known beforehand, as channels that a network reads beside noisy latents.

    given^i = [m^i z^i, m^i],   m^i = 1 where frame i is known, else 0        (1)

The first frame known makes a clip of a picture, the first and the last what lies between two, and
the first k go on with a clip. Where no frame is known, all channels are zero, which a network
trained with them reads as if it were given none.

A sampler's own latents s^n of known frames are about those it was given, z^n. In the end the given
ones take their place, and other frames get a share of the difference, so that none jumps:

    y^i = s^i + 0.85^|i - n| (z^n - s^n),   n the known frame nearest to i    (2)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

DECAY = 0.85
"""Share of the difference that is left from one frame to the next (eq. 2); chosen among 0.6, 0.85 and 1 on drawn
clips."""


def known_frame_channels(
    z: Float[Array, "b t h w c"], is_known: Bool[Array, "b t"]
) -> Float[Array, "b t h w c2"]:
    """Latents and mask of known frames (eq. 1), with c2 = c + 1."""
    mask = jnp.broadcast_to(is_known[:, :, None, None, None], (*z.shape[:-1], 1))
    return jnp.concatenate([jnp.where(mask, z, 0), mask.astype(z.dtype)], axis=-1)


def with_known_frames(
    z: Float[Array, "b t h w c"], given: Float[Array, "b t h w c2"]
) -> Float[Array, "b t h w c"]:
    """Latents in which known frames are those of the channels `given` (eq. 1), and others go on from
    them (eq. 2)."""
    frames, is_known = jnp.arange(z.shape[1]), given[..., -1:] > 0
    distance = jnp.abs(frames[:, None] - frames[None])[None].astype(jnp.float32)
    distance = jnp.where(is_known[:, None, :, 0, 0, 0], distance, jnp.inf)
    nearest = distance.argmin(axis=2)[:, :, None, None, None]
    share = (DECAY ** distance.min(axis=2))[:, :, None, None, None]
    difference = jnp.take_along_axis(given[..., :-1] - z, nearest, axis=1)
    return jnp.where(is_known, given[..., :-1], z + share * difference).astype(z.dtype)
