"""Group normalisation (Wu & He 1803.08494) and an activation, with a gradient of its own on GPUs.

    y = f(u),   u = scale x^ + bias,   x^ = (x - m) r,   r = (v + eps)^(-1/2)

m and v are the mean and the variance over the rows and the channels of a group, <.> below. With g
the gradient of y:

    du = g f'(u),   dx = r (scale du - <scale du> - x^ <scale du x^>)
    dscale = sum du x^,   dbias = sum du

A GPU's step is bound by memory: the plain form reads x three times and writes it once, and its
gradient passes over maps of x's size 19 times, one in float32. The other form reads x twice and
writes it once; backward it reads x and g twice, and writes dx.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.models.rows import broadcast_channels, broadcast_rows, sum_rows
from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu

Elementwise = Callable[[Array], Array]


def group_norm(
    x: Float[Array, "*b r c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    *,
    groups: int,
    eps: float,
    activation: Elementwise | None = None,
) -> Float[Array, "*b r c"]:
    """Group norm over rows and the channels of a group, then an elementwise activation."""
    is_narrow = x.dtype != jnp.float32
    form = _with_own_gradient if is_narrow and is_traced_for_gpu() else _plain
    return form(x, scale, bias, groups, eps, activation or _identity)


def _plain(
    x: Float[Array, "*b r c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    groups: int,
    eps: float,
    activation: Elementwise,
) -> Float[Array, "*b r c"]:
    # Summing over rows first, then over a group's channels, moves less memory than reshaping x.
    # Two passes, because E[x^2] - E[x]^2 suffers from cancellation.
    y, rows = x.astype(jnp.float32), x.shape[-2]
    y = y - broadcast_rows(_over_group(sum_rows(y) / rows, groups), rows)
    variance = _over_group(sum_rows(jnp.square(y)) / rows, groups)
    factor = broadcast_channels(scale, variance) * jax.lax.rsqrt(variance + eps)
    y = y * broadcast_rows(factor, rows) + broadcast_channels(bias, y)
    return activation(y.astype(x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _with_own_gradient(
    x: Float[Array, "*b r c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    groups: int,
    eps: float,
    activation: Elementwise,
) -> Float[Array, "*b r c"]:
    return _forward(x, scale, bias, groups, eps, activation)[0]


def _forward(x, scale, bias, groups: int, eps: float, activation: Elementwise):
    mean, variance = _moments(x, groups)
    rstd = jax.lax.rsqrt(variance + eps)
    u = _normalised(x, mean, rstd) * jnp.broadcast_to(scale, rstd.shape) + jnp.broadcast_to(
        bias, rstd.shape
    )
    return activation(u).astype(x.dtype), (x, mean, rstd, scale, bias)


def _backward(groups: int, eps: float, activation: Elementwise, kept, g):
    x, mean, rstd, scale, bias = kept
    scale, bias = (jnp.broadcast_to(row, rstd.shape) for row in (scale, bias))

    def du_and_normalised(mean):
        normalised = _normalised(x, mean, rstd)
        _, pull = jax.vjp(activation, normalised * scale + bias)
        return pull(g.astype(jnp.float32))[0], normalised

    du, normalised = du_and_normalised(mean)
    sums = du.sum(-2, keepdims=True), (du * normalised).sum(-2, keepdims=True)
    # Before the barrier the sums, behind it dx, each from x and g alone. XLA would keep du, in
    # float32, for dx and for sums over all images at once.
    sums, mean = jax.lax.optimization_barrier((sums, mean))
    shift, slope = (_over_group(scale * one / x.shape[-2], groups) for one in sums)
    du, normalised = du_and_normalised(mean)
    dx = rstd * (scale * du - shift - normalised * slope)
    dbias, dscale = (one.sum(tuple(range(one.ndim - 1))) for one in sums)
    return dx.astype(x.dtype), dscale, dbias


_with_own_gradient.defvjp(_forward, _backward)


def _moments(
    x: Float[Array, "*b r c"], groups: int
) -> tuple[Float[Array, "*b 1 c"], Float[Array, "*b 1 c"]]:
    """Mean and variance of each group, repeated for its channels, in one pass over x.

    Each channel is shifted by its first row, d = x - x_1: E[d^2] - E[d]^2 loses at most a factor of
    the number of rows to cancellation, since x_1 is among them, however large the mean is. For
    bfloat16 that is far below the rounding of x.
    """
    first = x[..., :1, :].astype(jnp.float32)
    d = x.astype(jnp.float32) - first
    d, square = d.mean(-2, keepdims=True), jnp.square(d).mean(-2, keepdims=True)
    mean = _over_group(first + d, groups)
    variance = _over_group(square - jnp.square(d) + jnp.square(first + d - mean), groups)
    return mean, jnp.maximum(variance, 0)


def _normalised(
    x: Float[Array, "*b r c"], mean: Float[Array, "*b 1 c"], rstd: Float[Array, "*b 1 c"]
) -> Float[Array, "*b r c"]:
    return (x.astype(jnp.float32) - mean) * rstd


def _over_group(per_channel: Float[Array, "*b c"], groups: int) -> Float[Array, "*b c"]:
    """Mean over each group, repeated for its channels."""
    grouped = per_channel.reshape(*per_channel.shape[:-1], groups, -1)
    return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(
        per_channel.shape
    )


def _identity(x: Array) -> Array:
    return x
