"""Everything that a step reads and writes, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from magicvideo_jax.core.types import Params


class TrainState(NamedTuple):
    """`params` are trained; gradients, moments and EMA exist for them alone."""

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: Any
    skipped_in_a_row: Int[Array, ""]
    """Steps just past whose loss or gradient was not finite; they changed nothing."""
    frozen: Params
    """The rest of the networks: text encoder, VAE, what a freeze mode leaves alone."""


def fresh_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0, nothing frozen yet. Run it under `jax.jit`, so that EMA and moments are created where they belong."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        frozen={},
    )
