"""The noise of a clip, part of which all its frames have in common (Ge et al. 2305.10474, section 3.1, "mixed noise").

    eps^i = sqrt(s) eps_common + sqrt(1 - s) eps_own^i,   so that corr(eps^i, eps^j) = s,  i != j

An image network draws like pictures from like noise. With some of it in common it already agrees with itself about what
a clip shows, and a video network made of it has only the motion left to learn.
"""

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from magicvideo_jax.core.keys import named


def clip_noise(key: PRNGKeyArray, shape: tuple[int, ...], *, shared: float = 0.0) -> Float[Array, "*b t h w c"]:
    """Unit noise of `shape` (.. t h w c), float32; `shared` (s, 0 to 1) of its variance is the same in every frame."""
    own = jax.random.normal(key, shape)
    if not shared:
        return own
    common = jax.random.normal(named(key, "common"), (*shape[:-4], 1, *shape[-3:]))
    return shared**0.5 * common + (1 - shared) ** 0.5 * own
