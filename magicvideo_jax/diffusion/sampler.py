"""Noise to latents: one scan over a table's rows, the network asked once a row.

    x_0 = what the network's output implies (process.py);   z <- a z + b x_0 + c x_0' + d noise    (table.py, eq. 1)

The latents are carried in float32 whatever their type, because rounding to bfloat16 at every step adds up; the
network is given the type that came in, and the result has it. The noise of an example at step i is
`normal(fold_in(named(its key, "sampler noise"), i))`, in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import Denoise
from magicvideo_jax.diffusion.process import corrupt, to_x0
from magicvideo_jax.diffusion.solvers import SolverTable


def initial_latents(
    table: SolverTable, eps: Float[Array, "b *axes"], z0: Float[Array, "b *axes"] | None = None
) -> Float[Array, "b *axes"]:
    """Where a table begins: at unit noise `eps`, or at `z0` under as much of it as the first step expects."""
    if z0 is None:
        return (table.start_scale * eps.astype(jnp.float32)).astype(eps.dtype)
    alpha, sigma = jnp.asarray(table.steps.alpha[0]), jnp.asarray(table.steps.sigma[0])
    return corrupt(z0, eps, alpha, sigma).astype(z0.dtype)


def run_sampler(
    denoise: Denoise,
    z: Float[Array, "b *axes"],
    condition: Any,
    *,
    table: SolverTable,
    keys: Key[Array, "b"] | None = None,
) -> Float[Array, "b *axes"]:
    """Clean latents from `z`, which `initial_latents` makes. Only a table that adds noise needs keys."""
    if table.is_stochastic and keys is None:
        raise UserError(
            "keys: this sampler adds noise at its steps; give a random key for each example"
        )
    shape, dtype = z.shape, z.dtype

    def noise(key: PRNGKeyArray, number: Array) -> Array:
        return jax.random.normal(
            jax.random.fold_in(subkey(key, "sampler noise"), number), shape[1:], jnp.float32
        )

    def step(
        carry: tuple[Array, Array], row: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], None]:
        z, x0_before = carry
        number, time, alpha, sigma, a, b, c, d = row
        output = denoise(z.astype(dtype), jnp.broadcast_to(time, shape[:1]), condition)
        x0 = to_x0(table.kind, output, z, alpha=alpha, sigma=sigma)
        if table.clip is not None:
            x0 = jnp.clip(x0, -table.clip, table.clip)
        z = a * z + b * x0 + c * x0_before
        if table.is_stochastic and keys is not None:
            z += d * jax.vmap(noise, (0, None))(keys, number)
        return (z, x0), None

    start = z.astype(jnp.float32)
    rows = tuple(jnp.asarray(column) for column in table.steps)
    (z, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), rows)
    return z.astype(dtype)
