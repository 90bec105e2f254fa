"""The two factors of LoRA (Hu et al. 2106.09685) in our layout and in PyTorch's.

    W = W_0 + down (s up),    s = alpha / rank                                          (1)

A kernel is (.. in, out), `down` (.. in, rank), `up` (rank, out); a convolution has its window in
front. PyTorch's `down` is (rank, in, ..) and `up` (out, rank, 1, 1).
"""

import math
from typing import TypeVar

import jax
import numpy as np

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)
ArrayShape = tuple[int, ...]


def low_rank_update(down: ArrayT, up: ArrayT, scale: float) -> ArrayT:
    """The second term of eq. 1."""
    # Scaled before the product: a file without alpha holds `scale * up`, and gives the same bits.
    return down @ (up * scale)


def factor_shapes(kernel: ArrayShape, rank: int) -> tuple[ArrayShape, ArrayShape]:
    """Shapes of `down` and `up` of a kernel."""
    return (*kernel[:-1], rank), (rank, kernel[-1])


def factors_fit(kernel: ArrayShape, down: ArrayShape, up: ArrayShape) -> bool:
    """Whether shapes of PyTorch's factors are those of a kernel of ours.

    A 1x1 convolution and a linear layer may take each other's place: Stable Diffusion's 1.x and 2.x
    differ in that.
    """
    *window, inputs, outputs = kernel
    if len(down) < 2 or len(up) < 2 or 0 in down:
        return False
    fits = down[1] == inputs and up[:2] == (outputs, down[0])
    fits &= math.prod(up[2:]) == 1
    return fits and (list(down[2:]) == window or math.prod(down[2:]) == math.prod(window) == 1)


def factors_of_torch(
    kernel: ArrayShape, down: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's factors in our layout. Their shapes are those that `factors_fit` accepts."""
    *window, inputs, outputs = kernel
    rank = down.shape[0]
    ours = np.moveaxis(down.reshape(rank, inputs, *window), (1, 0), (-2, -1))
    return ours, up.reshape(outputs, rank).T


def factors_to_torch(down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Our factors in PyTorch's layout."""
    window = (1,) * (down.ndim - 2)
    return np.moveaxis(down, (-2, -1), (1, 0)), up.T.reshape(*up.T.shape, *window)
