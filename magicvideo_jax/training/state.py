"""Training state: all that a step reads and writes, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from magicvideo_jax.core.types import Params


class TrainState(NamedTuple):
    """State of a run.

    Only `params` are trained: gradients, moments and EMA exist for them alone.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: Any
    skipped_in_a_row: Int[Array, ""]
    """Number of consecutive steps so far whose loss or gradient was not finite. Such steps change
    no parameter."""
    frozen: Params
    """Parameters that are not trained: text encoder, VAE, and those that a freeze mode excludes.
    """


def fresh_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State at step 0, with nothing frozen.

    Under `jax.jit`, EMA and moments get the shardings of the parameters.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        frozen={},
    )
