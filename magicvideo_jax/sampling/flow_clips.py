"""Sampling of flow (LFDM): z_0 = [F, 2 O - 1] from noise, a picture's feature and a class."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key

from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import FlowCondition, Params
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.sampling.keyframes import SamplerInputs


def sample_flow(
    params: Params,
    condition: FlowCondition,
    null_condition: FlowCondition,
    keys: Key[Array, "b"],
    *,
    denoise: Callable[..., Float[Array, "b t h w 3"]],
    sampler: SamplerInputs,
    shape: tuple[int, ...],
    goes_on: Callable[[], bool] | None = None,
) -> Float[Array, "b t h w 3"]:
    """Flow latents of `shape` (t h w 3) for each condition. All noise of clip i is drawn from `keys[i]`.

    Of `sampler` only the table and the guidance are read.
    """

    def network(z: Array, time: Array, condition: FlowCondition, /) -> Array:
        return denoise(params, z, time, condition)

    if sampler.guidance is not None:
        scale, rescale, interval = sampler.guidance
        network = guided(network, scale, null_condition, rescale=rescale, interval=interval)
    eps = jax.vmap(lambda key: jax.random.normal(subkey(key, "noise"), shape))(keys)
    z = initial_latents(sampler.table, eps)
    return run_sampler(network, z, condition, table=sampler.table, keys=keys, goes_on=goes_on)
