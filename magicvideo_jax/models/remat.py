"""Rematerialisation: which activations of a block are kept for the backward pass.

What is dear to compute and small is kept first: results of convolutions and of products with
parameters. Norms, activations and attention are recomputed from them.
"""

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import jax


class Remat(Enum):
    """Activations of a block that are kept; all others are recomputed. The least recomputed comes
    first."""

    NONE = "none"
    """All activations: nothing is recomputed."""
    DOTS = "dots"
    """Results of convolutions and of matrix products with parameters."""
    LARGE = "large"
    """As DOTS, without results that are more than twice as wide as their input: the feed-forward's
    hidden layer, a third of what DOTS keeps."""
    FULL = "full"
    """Only the inputs of blocks: least memory, about a third more computation."""


_MOST_WIDENED = 2


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A function that keeps of its activations only what `remat` says."""
    return block if remat is Remat.NONE else jax.checkpoint(block, policy=_POLICY[remat])


def _is_product(primitive: Any, *operands: Any, **params: Any) -> bool:
    """Whether an operation is a convolution or a product with a parameter."""
    if primitive is jax.lax.dot_general_p:
        (axes, _), (batch, _) = params["dimension_numbers"]
        # Attention's products have batch axes, images and heads; copies of rows contract nothing.
        return len(axes) > 0 and not batch
    return primitive is jax.lax.conv_general_dilated_p


def _is_narrow_product(primitive: Any, *operands: Any, **params: Any) -> bool:
    if not _is_product(primitive, *operands, **params):
        return False
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    (axes, _), _ = params["dimension_numbers"]
    x, kernel = operands
    inputs = math.prod(x.shape[axis] for axis in axes)
    return kernel.size <= _MOST_WIDENED * inputs**2


_POLICY = {
    Remat.DOTS: _is_product,
    Remat.LARGE: _is_narrow_product,
    Remat.FULL: jax.checkpoint_policies.nothing_saveable,
}
