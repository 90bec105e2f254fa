"""Vectors of classes, the condition of LFDM's U-Net: text states of their names, or a table of
orthogonal ones."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.models.bind import Keys


@dataclass(frozen=True)
class ClassVectorsConfig:
    """Number and width of the vectors."""

    classes: int
    width: int

    def __post_init__(self) -> None:
        at_least(1, self, "classes", "width")


class ClassVectors(nnx.Module):
    """A table of vectors. Fresh ones have a mean square of 1, and are orthogonal where there are no
    more classes than numbers in a vector."""

    def __init__(self, config: ClassVectorsConfig, *, keys: Keys):
        shape = (config.classes, config.width)
        if config.classes <= config.width:
            table = config.width**0.5 * jnp.eye(*shape)
        else:
            table = jax.random.normal(keys(), shape)
        self.embedding = nnx.Param(table)

    def __call__(self, ids: Int[Array, "b"]) -> Float[Array, "b d"]:
        """Vectors of ids. An id below 0 is of no class: its vector is the first, which callers ignore."""
        return self.embedding[jnp.maximum(ids, 0)]
