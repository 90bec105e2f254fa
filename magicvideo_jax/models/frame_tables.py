"""Tables with a row for each frame of a clip: adaptors, and positions in temporal attention.

A network reads their first rows. One that is evaluated on a part of a clip reads those of the part.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int


class ReadsFrameTables(nnx.Module):
    """A layer with a table that has a row for each frame."""

    def rows(self, table: Float[Array, "f c"], frames: int) -> Float[Array, "t c"]:
        """The rows of so many frames, from the first one that the network is evaluated on."""
        first = getattr(self, "first_frame", None)
        if first is None:
            return table[:frames]
        return jax.lax.dynamic_slice_in_dim(table, first, frames)


def set_first_frame(network: nnx.Module, first: Int[Array, ""]) -> None:
    """Let a network read its tables from the row `first` on, which may be traced."""
    for _, module in nnx.iter_graph(network):
        if isinstance(module, ReadsFrameTables):
            layer: Any = module
            layer.first_frame = nnx.data(first)
