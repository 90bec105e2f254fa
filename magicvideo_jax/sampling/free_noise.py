"""Noise of FreeNoise (Qiu et al. 2310.15169, section 3), which repeats itself along the clip.

For i = c, c + d, c + 2 d ..

    noise[i : i + d] = random permutation of noise[i - c : i - c + d]                                         (1)

so that every window of c frames has nearly the noise of the first, in another order: content stays,
motion varies. c is the number of frames that the model sees at once, d the distance of windows. The
other half of FreeNoise, attention in windows, is `models/frame_windows.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.keys import subkey
from magicvideo_jax.models.frame_windows import WINDOW_STRIDE


def free_noise(
    key: PRNGKeyArray, shape: tuple[int, ...], *, context: int, stride: int = WINDOW_STRIDE
) -> Float[Array, "..."]:
    """Noise of `shape` (t ...) whose frames after the first `context` repeat them (eq. 1)."""
    noise = jax.random.normal(subkey(key, "noise"), (min(context, shape[0]), *shape[1:]))
    order = noise_frames(subkey(key, "noise order"), shape[0], context=context, stride=stride)
    return jnp.take(noise, order, axis=0)


def noise_frames(
    key: PRNGKeyArray, frames: int, *, context: int, stride: int = WINDOW_STRIDE
) -> Int[Array, "t"]:
    """Which of the first `context` frames each frame has its noise from (eq. 1)."""
    stride = min(stride, context)
    blocks = max(0, -(-(frames - context) // stride))

    def permute(source: Int[Array, "f"], block: Int[Array, ""]) -> tuple[Int[Array, "f"], None]:
        start = block * stride
        earlier = jax.lax.dynamic_slice_in_dim(source, start, stride)
        order = jax.random.permutation(jax.random.fold_in(key, block), earlier)
        return jax.lax.dynamic_update_slice_in_dim(source, order, start + context, 0), None

    source = jnp.arange(context + blocks * stride)
    source, _ = jax.lax.scan(permute, source, jnp.arange(blocks))
    return source[:frames]
