"""Layer normalisation (Ba et al. 1607.06450), with a gradient of its own on GPUs.

    y = scale x^ + bias,   x^ = (x - m) r,   r = (v + eps)^(-1/2)

m and v are the mean and the variance over the channels of a row, <.> below. With g the gradient of
y:

    dx = r (scale g - <scale g> - x^ <scale g x^>),   dscale = sum g x^,   dbias = sum g

On GPUs dx is computed row by row in one kernel, and the sums in one more, each from x and g alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from magicvideo_jax.models.rows import broadcast_channels
from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu


def layer_norm(
    x: Float[Array, "*b c"], scale: Float[Array, "c"], bias: Float[Array, "c"], *, eps: float
) -> Float[Array, "*b c"]:
    """Layer norm over the last axis, computed in float32."""
    is_narrow = x.dtype != jnp.float32
    form = _with_own_gradient if is_narrow and is_traced_for_gpu() else _plain
    return form(x, scale, bias, eps)


def _plain(
    x: Float[Array, "*b c"], scale: Float[Array, "c"], bias: Float[Array, "c"], eps: float
) -> Float[Array, "*b c"]:
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * broadcast_channels(scale, y) + broadcast_channels(bias, y)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _with_own_gradient(
    x: Float[Array, "*b c"], scale: Float[Array, "c"], bias: Float[Array, "c"], eps: float
) -> Float[Array, "*b c"]:
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps: float):
    moments = _moments(x, eps)
    y = _normalised(x, *moments)
    y = y * broadcast_channels(scale, y) + broadcast_channels(bias, y)
    return y.astype(x.dtype), (x, *moments, scale)


def _backward(eps: float, kept, g):
    x, mean, rstd, scale = kept
    normalised = _normalised(x, mean, rstd)
    w = g.astype(jnp.float32) * broadcast_channels(scale, normalised)
    slope = (w * normalised).mean(-1, keepdims=True)
    dx = rstd * (w - w.mean(-1, keepdims=True) - normalised * slope)
    # Behind the barrier x^ is computed again from x. XLA would keep it, in float32.
    mean, rstd = jax.lax.optimization_barrier((mean, rstd))
    every_row = tuple(range(x.ndim - 1))
    dbias = g.astype(jnp.float32).sum(every_row)
    dscale = (g.astype(jnp.float32) * _normalised(x, mean, rstd)).sum(every_row)
    return dx.astype(x.dtype), dscale, dbias


_with_own_gradient.defvjp(_forward, _backward)


def _moments(
    x: Float[Array, "*b c"], eps: float
) -> tuple[Float[Array, "*b 1"], Float[Array, "*b 1"]]:
    """Mean, and reciprocal of the standard deviation, of each row, in one pass.

    Rows are shifted by their first channel, d = x - x_1: E[d^2] - E[d]^2 loses at most a factor of
    the number of channels to cancellation, since x_1 is among them, however large the mean is. For
    bfloat16 that is far below the rounding of x.
    """
    first = x[..., :1].astype(jnp.float32)
    d = x.astype(jnp.float32) - first
    d, square = d.mean(-1, keepdims=True), jnp.square(d).mean(-1, keepdims=True)
    return first + d, jax.lax.rsqrt(jnp.maximum(square - jnp.square(d), 0) + eps)


def _normalised(
    x: Float[Array, "*b c"], mean: Float[Array, "*b 1"], rstd: Float[Array, "*b 1"]
) -> Float[Array, "*b c"]:
    return (x.astype(jnp.float32) - mean) * rstd
