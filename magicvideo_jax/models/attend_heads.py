"""Attention of each head by its formula, and a gradient of its own for GPUs.

    O = P V,   P = softmax(S),   S = Q K^T / sqrt(d) + bias

With G the gradient of O, and row sums of the product in parentheses:

    dV = P^T G,   dP = G V^T,   dS = P (dP - sum(P dP)),   dQ = dS K / sqrt(d),   dK = dS^T Q / sqrt(d)
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend_heads(
    q: Float[Array, "*b l d"],
    k: Float[Array, "*b m d"],
    v: Float[Array, "*b m d"],
    mask: Bool[Array, "l m"] | None = None,
    bias: Float[Array, "n l m"] | None = None,
) -> Float[Array, "*b l d"]:
    """Attention of each head. Scores, softmax and sums are in float32; so are gradients of scores,
    and thereby the products of the backward pass.
    """
    weights, total = _exponentials(q, k, mask, bias)
    values = jnp.einsum(
        "...lm,...md->...ld", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    # Dividing last costs `l d` divisions instead of `l m`.
    return (values / total).astype(q.dtype)


@jax.custom_vjp
def attend_heads_narrow(
    q: Float[Array, "*b l d"],
    k: Float[Array, "*b m d"],
    v: Float[Array, "*b m d"],
    mask: Bool[Array, "l m"] | None = None,
    bias: Float[Array, "n l m"] | None = None,
) -> Float[Array, "*b l d"]:
    """The same, with P and dS rounded to the dtype of `q` for all products, as flash attention has
    them (Dao 2307.08691), and P kept for the backward pass. Of bfloat16 `attend_heads` writes
    float32 copies of q, k, v and the values.
    """
    return _forward(q, k, v, mask, bias)[0]


def _forward(q, k, v, mask, bias):
    weights, total = _exponentials(q, k, mask, bias)
    p = (weights / total).astype(q.dtype)
    return jnp.einsum("...lm,...md->...ld", p, v), (q, k, v, p, bias)


def _backward(kept, g):
    q, k, v, p, bias = kept
    wide = p.astype(jnp.float32)
    dp = jnp.einsum("...ld,...md->...lm", g, v, preferred_element_type=jnp.float32)
    ds = wide * (dp - (wide * dp).sum(-1, keepdims=True))
    narrow = (ds / math.sqrt(q.shape[-1])).astype(q.dtype)
    dq = jnp.einsum("...lm,...md->...ld", narrow, k)
    dk = jnp.einsum("...lm,...ld->...md", narrow, q)
    dv = jnp.einsum("...lm,...ld->...md", p, g)
    dbias = None if bias is None else ds.sum(tuple(range(ds.ndim - 3))).astype(bias.dtype)
    return dq, dk, dv, None, dbias


attend_heads_narrow.defvjp(_forward, _backward)


def _exponentials(
    q: Float[Array, "*b l d"],
    k: Float[Array, "*b m d"],
    mask: Bool[Array, "l m"] | None,
    bias: Float[Array, "n l m"] | None,
) -> tuple[Float[Array, "*b l m"], Float[Array, "*b l 1"]]:
    """P before its division, and what it is divided by."""
    scores = jnp.einsum("...ld,...md->...lm", q, k, preferred_element_type=jnp.float32) / math.sqrt(
        q.shape[-1]
    )
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias.astype(jnp.float32), scores.shape)
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, jnp.finfo(jnp.float32).min)
    # The largest score cancels in the quotient, so its gradient is zero.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    return weights, weights.sum(axis=-1, keepdims=True)
