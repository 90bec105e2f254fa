"""Deep features of a U-Net reused over denoising steps (DeepCache, Ma et al. 2312.00858).

Below the first level, features change slowly from step to step. At every n-th step the whole
network is evaluated; at the others only its first level, which receives the features of the last
whole evaluation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.types import Denoise
from magicvideo_jax.diffusion.sampler import RememberingDenoise

ReusingDenoise = Callable[
    [Float[Array, "b *axes"], Float[Array, "b"], Any, Float[Array, "..."] | None],
    tuple[Float[Array, "b *axes"], Float[Array, "..."]],
]
"""`denoise(z, time, condition, deep) -> (output, deep)`; None: deep features are evaluated."""


def with_feature_cache(
    denoise: ReusingDenoise,
    every: Any,
    z: Float[Array, "b *axes"],
    condition: Any,
    *,
    wrapped: Callable[[Denoise], Denoise],
) -> RememberingDenoise:
    """Denoiser that evaluates deep features at every `every`-th step, a number that may be traced.

    `wrapped` puts guidance around the network and calls it once. `z` and `condition` are those of
    the first step.
    """

    def evaluated(
        z: Array, time: Array, condition: Any, choose: Callable[..., tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        kept = []

        def network(z: Array, time: Array, condition: Any, /) -> Array:
            output, deep = choose(z, time, condition)
            kept.append(deep)
            return output

        output = wrapped(network)(z, time, condition)
        (deep,) = kept
        return output, deep

    def whole(z: Array, time: Array, condition: Any) -> tuple[Array, Array]:
        return denoise(z, time, condition, None)

    def step(
        z: Array, time: Array, condition: Any, memory: Array, index: Array
    ) -> tuple[Array, Array]:
        def choose(z: Array, time: Array, condition: Any) -> tuple[Array, Array]:
            def reused(z: Array, time: Array, condition: Any) -> tuple[Array, Array]:
                return denoise(z, time, condition, memory)

            return jax.lax.cond(index % every == 0, whole, reused, z, time, condition)

        return evaluated(z, time, condition, choose)

    time = jnp.zeros(len(z), jnp.float32)
    _, deep = jax.eval_shape(lambda: evaluated(z, time, condition, whole))
    return RememberingDenoise(step, jnp.zeros(deep.shape, deep.dtype))
