"""Batch normalisation (Ioffe & Szegedy 1502.03167), statistics among the parameters.

    y = scale (x - mean) / sqrt(variance + eps) + bias
    mean <- 0.9 mean + 0.1 mean of the batch,   variance <- 0.9 variance + 0.1 unbiased variance

A batch normalises itself only in a module of which `train()` was called: networks outside of
`models/` are pure functions, and a method that trains returns `moved_statistics(module)`, to which
the train step moves the statistics (`training/batch_statistics.py`). Over a sharded batch XLA
computes the statistics of the whole batch.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import params_of

STATISTICS = ("mean", "variance")
"""Names of the parameters that are no weights but running statistics."""
_MOMENTUM = 0.1


class BatchNorm(nnx.Module):
    """Normalisation of each channel, by running statistics or, in training, by the batch's own."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.variance = nnx.Param(jnp.zeros(channels)), nnx.Param(jnp.ones(channels))
        self.eps = eps
        self.use_running_average = True  # what nnx's `train()` clears

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, variance = self.mean[...], self.variance[...]
        else:
            mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
            self._move(mean, variance, y.size // y.shape[-1])
        gain = self.scale[...] * jax.lax.rsqrt(variance + self.eps)
        return (y * _row(gain) + _row(self.bias[...] - mean * gain)).astype(x.dtype)

    def _move(self, mean: Float[Array, "c"], variance: Float[Array, "c"], count: int) -> None:
        unbiased = variance * count / max(count - 1, 1)
        for running, seen in ((self.mean, mean), (self.variance, unbiased)):
            running[...] = (1 - _MOMENTUM) * running[...] + _MOMENTUM * seen


def is_statistic(path: str) -> bool:
    """Whether the parameter at a dotted path is a running statistic."""
    return path.rpartition(".")[-1] in STATISTICS


def moved_statistics(module: nnx.Module) -> Params:
    """The running statistics of a module after what it has seen, without gradients."""
    flat = flatten(params_of(module))
    return unflatten(
        {path: jax.lax.stop_gradient(x) for path, x in flat.items() if is_statistic(path)}
    )


def _row(vector: Float[Array, "c"]) -> Float[Array, "1 1 1 c"]:
    return vector[None, None, None]
