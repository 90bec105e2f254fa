"""Batch norms with fixed statistics, folded into the convolutions before them.

    y = gamma (k * x - mean) / sqrt(variance + eps) + beta = k' * x + b'
    k' = k gamma / sqrt(variance + eps),   b' = beta - mean gamma / sqrt(variance + eps)

Files have a convolution without a bias and a norm, our networks one convolution with a bias.
"""

from collections.abc import Collection, Mapping

import jax
import numpy as np

CONV, NORM = "conv", "norm"
SCALE = "scale"
"""The norm's gamma, which files may lack: it is one then."""


def with_norms(
    shapes: Mapping[str, jax.ShapeDtypeStruct], *, without: Collection[str]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a network's parameters as files have them, by dotted path.

    `without` names the layers that no norm follows.
    """
    stored = {}
    for path, shape in shapes.items():
        layer, _, leaf = path.rpartition(".")
        if layer in without:
            stored[path] = shape
        elif leaf == "kernel":
            stored[f"{layer}.{CONV}.kernel"] = shape
        else:
            names = (SCALE, "bias", "mean", "variance")
            stored |= {f"{layer}.{NORM}.{name}": shape for name in names}
    return stored


def fold_norms(stored: Mapping[str, np.ndarray], *, eps: float) -> dict[str, np.ndarray]:
    """Parameters of the network from those of a file, both by dotted path. Computed in float64.

    The inverse of what `with_norms` does to shapes.
    """
    folded = {}
    for path, value in stored.items():
        layer = path.rpartition(".")[0]
        unit, _, part = layer.rpartition(".")
        if part == CONV:
            gain, bias = _affine(stored, f"{unit}.{NORM}", eps)
            folded[f"{unit}.kernel"] = (value * gain).astype(np.float32)
            folded[f"{unit}.bias"] = bias.astype(np.float32)
        elif part != NORM:
            folded[path] = value
    return folded


def _affine(
    stored: Mapping[str, np.ndarray], norm: str, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and summand of a norm."""
    bias, mean, variance = (
        stored[f"{norm}.{name}"].astype(np.float64) for name in ("bias", "mean", "variance")
    )
    gain = stored.get(f"{norm}.{SCALE}", np.ones(1)) / np.sqrt(variance + eps)
    return gain, bias - mean * gain
