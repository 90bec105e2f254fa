"""Rematerialisation: which activations of a block are kept for the backward pass.

Products with parameters and convolutions are dear to compute, and their results are a sixth of all
activations. Norms, activations and attention are recomputed from them.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float


class Remat(Enum):
    """Activations of a block that are kept; all others are recomputed. The kind that recomputes
    least comes first.
    """

    NONE = "none"
    """All activations: nothing is recomputed."""
    DOTS = "dots"
    """Results of convolutions and of products with parameters."""
    LARGE = "large"
    """The same without results that are more than twice as wide as their input: a feed-forward's
    hidden layer, a third of what DOTS keeps."""
    FULL = "full"
    """Only the inputs of blocks: least memory, about a third more computation."""


_NARROW, _WIDE = "narrow product", "wide product"
_POLICY = {
    Remat.DOTS: jax.checkpoint_policies.save_only_these_names(_NARROW, _WIDE),
    Remat.LARGE: jax.checkpoint_policies.save_only_these_names(_NARROW),
    Remat.FULL: jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A function that keeps of its activations only what `remat` says."""
    return block if remat is Remat.NONE else jax.checkpoint(block, policy=_POLICY[remat])


def keep_product(y: Float[Array, "*b o"], *, inputs: int) -> Float[Array, "*b o"]:
    """Mark the result of a product or convolution of `inputs` channels for `Remat`.

    Marked by name and not by operation: attention's products, in any of its forms, are not kept.
    """
    return checkpoint_name(y, _WIDE if y.shape[-1] > 2 * inputs else _NARROW)
