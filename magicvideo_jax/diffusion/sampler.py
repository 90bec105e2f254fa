"""The sampling loop: one scan over the rows of a solver table, one network evaluation per row.

    z <- a z + b x_0 + c x_0' + d x_0'' + s noise     (solvers.py, eq. 1)

where x_0 is implied by the network's output (process.py), and clipped where the table says so. eps
of eq. 2 there is of the clipped estimate; with that of the estimate before, a alpha (clipped x_0 -
x_0) is added.

Latents are carried in float32 whatever their type, because rounding to bfloat16 at every step
accumulates. The network receives the input's type, and the result has it. The noise of an example
at step i is `normal(fold_in(subkey(key, "sampler noise"), i))`, in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Float, Key, PRNGKeyArray

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import Denoise
from magicvideo_jax.diffusion.process import corrupt, to_x0
from magicvideo_jax.diffusion.solvers import SolverTable


def initial_latents(
    table: SolverTable, eps: Float[Array, "b *axes"], z0: Float[Array, "b *axes"] | None = None
) -> Float[Array, "b *axes"]:
    """Latents at the first row of a table: scaled noise `eps`, or `z0` corrupted by it to the
    first noise level.
    """
    if z0 is None:
        return (table.start_scale * eps.astype(jnp.float32)).astype(eps.dtype)
    alpha, sigma = jnp.asarray(table.steps.alpha[0]), jnp.asarray(table.steps.sigma[0])
    return corrupt(z0, eps, alpha, sigma).astype(z0.dtype)


class RememberingDenoise(NamedTuple):
    """A denoiser that keeps something from one step to the next."""

    denoise: Callable[[Array, Array, Any, Any, Array], tuple[Array, Any]]
    """`denoise(z, time, condition, memory, index) -> (output, memory)` at the step of this index."""
    memory: Any
    """What the first step receives."""


def run_sampler(
    denoise: Denoise | RememberingDenoise,
    z: Float[Array, "b *axes"],
    condition: Any,
    *,
    table: SolverTable,
    keys: Key[Array, "b"] | None = None,
    shares_noise: bool = False,
    goes_on: Callable[[], bool] | None = None,
) -> Float[Array, "b *axes"]:
    """Clean latents from `z`, which `initial_latents` gives.

    A stochastic table needs one key per example; all frames of an example have the same noise if it
    `shares_noise`, and else each its own. `goes_on` is called on the host before every step,
    by each device; once it returns False, no further network is evaluated and the result is of no
    use. None, the default, compiles a program without it.

    Errors: `UserError` where the table is stochastic and there are no keys.
    """
    if table.is_stochastic and keys is None:
        raise UserError(
            "keys: this sampler adds noise at its steps; give a random key for each example"
        )
    shape, dtype = z.shape, z.dtype
    noise_shape = (1, *shape[2:]) if shares_noise else shape[1:]
    if not isinstance(denoise, RememberingDenoise):
        denoise = _without_memory(denoise)
    network, memory = denoise

    def noise(key: PRNGKeyArray, index: Array) -> Array:
        return jax.random.normal(
            jax.random.fold_in(subkey(key, "sampler noise"), index), noise_shape, jnp.float32
        )

    def step(
        carry: tuple[Array, Array, Array, Any], row: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array, Array, Any], None]:
        z, x0_before, x0_earlier, memory = carry
        index, time, alpha, sigma, a, b, c, d, s = row
        times = jnp.broadcast_to(time, shape[:1])
        output, memory = network(z.astype(dtype), times, condition, memory, index)
        x0 = to_x0(table.kind, output, z, alpha=alpha, sigma=sigma)
        unclipped = x0
        if table.clip is not None:
            x0 = jnp.clip(x0, -table.clip, table.clip)
        if table.threshold is not None:
            x0 = dynamically_clipped(x0, table.threshold)
        z = a * z + b * x0 + c * x0_before + d * x0_earlier
        if table.keeps_eps:
            z += a * alpha * (x0 - unclipped)
        if table.is_stochastic and keys is not None:
            z += s * jax.vmap(noise, (0, None))(keys, index)
        return (z, x0, x0_before, memory), None

    def step_if_asked(
        carry: tuple[Array, Array, Array, Any], row: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array, Array, Any], None]:
        # No operands: passing arrays to the host could wait for the device that waits for the host.
        asked = io_callback(
            lambda: np.bool_(goes_on is None or goes_on()), jax.ShapeDtypeStruct((), jnp.bool_)
        )
        return jax.lax.cond(asked, lambda: step(carry, row)[0], lambda: carry), None

    start = z.astype(jnp.float32)
    rows = tuple(jnp.asarray(column) for column in table.steps)
    body = step if goes_on is None else step_if_asked
    none = jnp.zeros_like(start)
    (z, *_), _ = jax.lax.scan(body, (start, none, none, memory), rows)
    return z.astype(dtype)


def dynamically_clipped(x0: Float[Array, "b *axes"], quantile: float) -> Float[Array, "b *axes"]:
    """Estimates clipped to [-s, s] and divided by s, a quantile of |x_0| of each example and at least
    1 (2205.11487, section 2.3).
    """
    rows = jnp.abs(x0).reshape(len(x0), -1)
    s = jnp.maximum(jnp.quantile(rows, quantile, axis=1), 1.0)
    s = s.reshape(-1, *(1,) * (x0.ndim - 1))
    return jnp.clip(x0, -s, s) / s


def _without_memory(denoise: Denoise) -> RememberingDenoise:
    def forgets(z: Array, time: Array, condition: Any, memory: Any, index: Array) -> Any:
        del index
        return denoise(z, time, condition), memory

    return RememberingDenoise(forgets, ())
