"""What tests of tiny networks share: compiling fast, and parameters that are random where fresh ones are zero."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.types import Params


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` that compiles in half the time and runs slower."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def random_params(shapes: Params, seed: int = 0) -> Params:
    """Random everywhere, about variance-preserving; norms around 1 are not needed for laws."""
    leaves, tree = jax.tree.flatten(shapes)
    draw = np.random.default_rng(seed)

    def one(shape: tuple[int, ...]) -> jax.Array:
        spread = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.3
        return jnp.array(spread * draw.normal(size=shape), jnp.float32)

    return tree.unflatten([one(leaf.shape) for leaf in leaves])


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, also inside of nested functions."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
