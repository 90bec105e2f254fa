"""Splash attention, JAX's flash attention (Dao 2307.08691) for TPUs: scores stay in the chip's
vector memory, forward and backward.

Heads keep their dimension: in memory 40 is padded to the 128 lanes of a tile by the chip's layout,
not by us.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_QUERY_BLOCKS = (512, 256, 128)
_KEY_BLOCKS = (1024, 512, 256, 128)
_COMPUTED_KEYS = 512
"""Keys of a block whose scores are computed at once."""
_WIDEST_HEAD = 256
"""The backward kernel's blocks of a head of 512, a VAE's, exceed the vector memory of a v5e. XLA
itself keeps the scores of such a head there."""


def has_blocks(queries: int, keys: int, d: int) -> bool:
    """Whether the kernel has blocks, multiples of 128 tokens, for so many tokens in heads of this
    dimension.
    """
    is_covered = _largest(_QUERY_BLOCKS, queries) > 0 and _largest(_KEY_BLOCKS, keys) > 0
    return is_covered and d <= _WIDEST_HEAD


def splash_attention(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    *,
    interpret: bool = False,
) -> Float[Array, "*b l n d"]:
    """Attention of `l` queries to `m` keys on one device, without a second derivative.

    `interpret` runs the kernel on any device, slowly.
    """
    # Imported where it is used: a quarter of a second that few programs need.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, heads, d = q.shape[-3:]
    keys = k.shape[-3]
    of_queries, of_keys = _largest(_QUERY_BLOCKS, queries), _largest(_KEY_BLOCKS, keys)
    computed = min(of_keys, _COMPUTED_KEYS)
    attend: Any = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.FullMask((queries, keys))] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernels.BlockSizes(
            block_q=of_queries,
            block_kv=of_keys,
            block_kv_compute=computed,
            block_q_dkv=of_queries,
            block_kv_dkv=of_keys,
            block_kv_dkv_compute=computed,
            use_fused_bwd_kernel=True,
        ),
        interpret=interpret,
    )
    # The kernel takes (n, l, d), and does not scale scores.
    scaled = (q.astype(jnp.float32) / math.sqrt(d)).astype(q.dtype)
    flat = [jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2) for x in (scaled, k, v)]
    return jnp.swapaxes(jax.vmap(attend)(*flat), 1, 2).reshape(q.shape)


def _largest(blocks: tuple[int, ...], tokens: int) -> int:
    """Largest block that divides so many tokens; 0 without one."""
    return next((block for block in blocks if tokens % block == 0), 0)
