"""Attention of one head with a gradient of its own for CPUs, as flash attention has it (Dao 2307.08691).

    S = Q K^T / sqrt(d),   P = exp(S - L),   L = log(sum(exp(S))),   O = P V

With G the gradient of O, and row sums of products in parentheses:

    dV = P^T G,   dS = P (G V^T - sum(G O)),   dQ = dS K / sqrt(d),   dK = dS^T Q / sqrt(d)

Two forms of these make XLA:CPU fast. Rows of exp(S) are summed by one more column of V, which is
ones. P^T and dS^T are written before their products: XLA's own product with a transposed left side
takes five times as long as the copy and the product after it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@jax.custom_vjp
def attend_head(
    q: Float[Array, "l d"],
    k: Float[Array, "m d"],
    v: Float[Array, "m d"],
    mask: Bool[Array, "l m"] | None = None,
) -> Float[Array, "l d"]:
    """Attention of `l` queries to `m` keys, True in `mask` where they attend, at least one per query.

    Scores, softmax and sums are in float32. The backward pass recomputes the scores.
    """
    return _forward(q, k, v, mask)[0]


def _forward(q, k, v, mask):
    scores = _scores(q, k, mask)
    largest = scores.max(-1, keepdims=True)
    ones = jnp.ones((len(v), 1), v.dtype)
    sums = _product(jnp.exp(scores - largest).astype(v.dtype), jnp.concatenate([v, ones], -1))
    values, total = sums[:, :-1], sums[:, -1:]
    o = (values / total).astype(q.dtype)
    return o, (q, k, v, mask, o, largest + jnp.log(total))


def _backward(kept, g):
    q, k, v, mask, o, log_sum = kept
    p = jnp.exp(_scores(q, k, mask) - log_sum)
    mean = (g.astype(jnp.float32) * o.astype(jnp.float32)).sum(-1, keepdims=True)
    ds = p * (_product(g, v.T) - mean) / math.sqrt(q.shape[-1])
    p, ds = p.astype(q.dtype), ds.astype(q.dtype)
    dq, dk, dv = _product(ds, k), _product(_transposed(ds), q), _product(_transposed(p), g)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attend_head.defvjp(_forward, _backward)


def _scores(
    q: Float[Array, "l d"], k: Float[Array, "m d"], mask: Bool[Array, "l m"] | None
) -> Float[Array, "l m"]:
    scores = _product(q, k.T) / math.sqrt(q.shape[-1])
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


def _product(x: Float[Array, "i j"], y: Float[Array, "j k"]) -> Float[Array, "i k"]:
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _transposed(x: Float[Array, "i j"]) -> Float[Array, "j i"]:
    """Transpose that XLA does not move into the product which reads it."""
    return jax.lax.optimization_barrier(x.T)
