"""Attention, softmax(q k^T / sqrt(d)) v (Vaswani et al. 1706.03762, eq. 1), by platform.

    keys       CPU                        CUDA                        TPU               others
    <= 32      plain                      plain, narrow gradient      plain             plain
    <= 128     plain                      cuDNN, else as above        plain             plain
    < 1024     one head at a time         cuDNN, else as above        plain             plain
    more       one head at a time         cuDNN, else as above        splash or plain   plain

All implementations compute scores, softmax and its sum in float32, whatever the dtype, like
`attend_heads`.

Attention over the at most 32 frames of a clip, in bfloat16 or float16, is one kernel on CUDA from
compute capability 8.0 on (`frame_kernel`), and plain elsewhere.
"""

import functools
import logging
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from magicvideo_jax.models.attend_head import attend_head
from magicvideo_jax.models.attend_heads import attend_heads, attend_heads_narrow
from magicvideo_jax.models.splash_attention import has_blocks, splash_attention
from magicvideo_jax.parallel.device_shards import has_own_shards, on_own_shards
from magicvideo_jax.runtime.traced_gpu import compute_capability

# Temporal attention over 16 frames: a fused kernel would pad to its tile of 64 or 128 and save
# nothing.
SHORT_KEYS = 32
# On two CPU cores, forward and backward, the plain form is as fast or faster up to 128 keys (such
# as 77 text tokens), equal at 256, and 2 to 3 times slower at 1,024, where its (b, n, l, m) scores
# exceed the cache.
PLAIN_KEYS_ON_CPU = 128
# On a TPU, below 1,024 keys, scores are a sixteenth or less of what they are there.
LONG_KEYS_ON_TPU = 1024
# 4 MB of float32 scores, the 1,024 x 1,024 of one head at 256 px. More queries are processed in
# pieces.
MAX_SCORES = 1 << 20

_log = logging.getLogger(__name__)


def attend(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    mask: Bool[Array, "#l #m"] | None = None,
    bias: Float[Array, "n l m"] | None = None,
) -> Float[Array, "*b l n d"]:
    """Attention of `l` queries to `m` keys.

    `mask` is True where a query attends to a key, at least one per query. `bias` is added to the
    scaled scores; with one the implementation is always a plain one, because only attention over a
    few frames has any.

    The implementation is chosen when the program is lowered, not by the host's devices, so that a
    step that a CPU host compiles ahead of time for a TPU does not contain the CPU's loop. cuDNN is
    chosen by the GPU that the program is traced for (`runtime.traced_gpu`).
    """
    if mask is not None:
        mask = jnp.broadcast_to(mask, (q.shape[-3], k.shape[-3]))
    on_cuda = _choose_on_cuda(q, k, masked=mask is not None, has_bias=bias is not None)
    is_long = k.shape[-3] > PLAIN_KEYS_ON_CPU and bias is None
    on_cpu = _head_by_head if is_long else _plain
    on_tpu = _splash if _is_for_splash(q, k, mask, bias) else _plain
    if on_cuda is on_cpu is on_tpu is _plain:
        return _plain(q, k, v, mask, bias)
    return jax.lax.platform_dependent(
        q, k, v, mask, bias, cpu=on_cpu, cuda=on_cuda, tpu=on_tpu, default=_plain
    )


def attend_frames(
    q: Float[Array, "b t p n d"],
    k: Float[Array, "b f p n d"],
    v: Float[Array, "b f p n d"],
    mask: Bool[Array, "#t #f"] | None = None,
    bias: Float[Array, "n t f"] | None = None,
) -> Float[Array, "b t p n d"]:
    """Attention of each pixel from `t` to `f` frames of its clip, with arguments as for `attend`."""
    if not _fits_frame_kernel(q, k):
        return _attend_by_pixel(q, k, v, mask, bias)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (q.shape[1], k.shape[1]))
    return jax.lax.platform_dependent(
        q, k, v, mask, bias, cuda=_frame_kernel, default=_attend_by_pixel
    )


def _attend_by_pixel(
    q: Float[Array, "b t p n d"],
    k: Float[Array, "b f p n d"],
    v: Float[Array, "b f p n d"],
    mask: Bool[Array, "#t #f"] | None,
    bias: Float[Array, "n t f"] | None,
) -> Float[Array, "b t p n d"]:
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(attend(q, k, v, mask, bias), 1, 2)


def _fits_frame_kernel(q: Array, k: Array) -> bool:
    capability = compute_capability()
    return (
        capability is not None
        and float(capability) >= 8
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[1] == k.shape[1] <= SHORT_KEYS
        and has_own_shards(q.shape[:3], shared_axis=2)
    )


def _frame_kernel(
    q: Float[Array, "b t p n d"],
    k: Float[Array, "b f p n d"],
    v: Float[Array, "b f p n d"],
    mask: Bool[Array, "t f"] | None,
    bias: Float[Array, "n t f"] | None,
) -> Float[Array, "b t p n d"]:
    # Pallas takes a fifth of a second to import: programs for GPUs alone need it.
    from magicvideo_jax.models.frame_kernel import attend_frames_in_kernel

    # Where one product computed all three (`layers.project`), XLA sees that this is its result.
    qkv = jnp.stack([q, k, v], axis=3)
    return on_own_shards(attend_frames_in_kernel, qkv, shared_axis=2, replicated=(mask, bias))


def _plain(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    mask: Bool[Array, "l m"] | None,
    bias: Float[Array, "n l m"] | None = None,
    of_each_head: Callable[..., Array] = attend_heads,
) -> Float[Array, "*b l n d"]:
    """Attention of all heads in two batched products, which XLA shards and fuses by itself."""
    q, k, v = (jnp.swapaxes(x, -3, -2) for x in (q, k, v))
    return jnp.swapaxes(of_each_head(q, k, v, mask, bias), -3, -2)


_plain_narrow = functools.partial(_plain, of_each_head=attend_heads_narrow)


def _head_by_head(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    mask: Bool[Array, "l m"] | None,
    bias: None = None,
) -> Float[Array, "*b l n d"]:
    """Attention of one head of one example at a time, so that its scores stay in the cache.

    The backward pass recomputes them.
    """
    q, k, v = (jnp.swapaxes(x, -3, -2) for x in (q, k, v))
    rows = tuple(x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    values = jax.lax.map(lambda row: _in_pieces(row[0], row[1], row[2], mask), rows)
    return jnp.swapaxes(values.reshape(q.shape), -3, -2)


def _in_pieces(
    q: Float[Array, "l d"],
    k: Float[Array, "m d"],
    v: Float[Array, "m d"],
    mask: Bool[Array, "l m"] | None,
) -> Float[Array, "l d"]:
    """Attention of one head, in equal pieces of queries whose scores number at most `MAX_SCORES`."""
    pieces = math.ceil(len(q) * len(k) / MAX_SCORES)
    if pieces == 1:
        return attend_head(q, k, v, mask)
    piece = math.ceil(len(q) / pieces)
    padding = piece * pieces - len(q)  # queries of zeros, dropped below

    def split(x: Array) -> Array:
        return jnp.pad(x, ((0, padding), (0, 0))).reshape(pieces, piece, -1)

    parts = (split(q), None if mask is None else split(mask))
    return jax.lax.map(lambda part: attend_head(part[0], k, v, part[1]), parts).reshape(
        -1, q.shape[-1]
    )[: len(q)]


def _cudnn(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    mask: Bool[Array, "l m"] | None,
    bias: None = None,
) -> Float[Array, "*b l n d"]:
    """Flash attention of cuDNN.

    Training requires even lengths: odd ones, such as 77 tokens, are padded and masked.
    """
    queries, keys = q.shape[-3], k.shape[-3]

    def pad_to_even(x: Array) -> Array:
        return jnp.pad(x.reshape(-1, *x.shape[-3:]), ((0, 0), (0, x.shape[-3] % 2), (0, 0), (0, 0)))

    flat = [pad_to_even(x) for x in (q, k, v)]
    values = jax.nn.dot_product_attention(
        *flat,
        mask=None if mask is None else mask[None, None],
        key_value_seq_lengths=jnp.full(len(flat[1]), keys, jnp.int32) if keys % 2 else None,
        implementation="cudnn",
    )
    return values[:, :queries].reshape(q.shape)


def _is_for_splash(q: Array, k: Array, mask: Array | None, bias: Array | None) -> bool:
    queries, keys, d = q.shape[-3], k.shape[-3], q.shape[-1]
    is_plain = mask is None and bias is None
    is_long = keys >= LONG_KEYS_ON_TPU and has_blocks(queries, keys, d)
    return is_plain and is_long and has_own_shards(q.shape[:-3])


def _splash(
    q: Float[Array, "*b l n d"],
    k: Float[Array, "*b m n d"],
    v: Float[Array, "*b m n d"],
    mask: None = None,
    bias: None = None,
) -> Float[Array, "*b l n d"]:
    """Flash attention on each device's clips and frames."""
    return on_own_shards(splash_attention, q, k, v)


def _choose_on_cuda(
    q: Array, k: Array, *, masked: bool, has_bias: bool = False
) -> Callable[..., Array]:
    """Implementation for CUDA: cuDNN where it can run, else a plain form, with the reason in the
    log.
    """
    queries, keys, d = q.shape[-3], k.shape[-3], q.shape[-1]
    # cuDNN's form is traced for the GPU that computes, or that a plan is for; without one there is
    # no CUDA program.
    capability = compute_capability()
    if capability is None:
        return _plain
    if keys <= SHORT_KEYS or has_bias:
        return _plain_narrow
    largest = 256 if float(capability) >= 9 else 128
    if float(capability) < 8:
        reason = f"the GPU's compute capability is {capability}, it needs 8.0"
    elif q.dtype not in (jnp.bfloat16, jnp.float16):
        reason = f"the dtype is {q.dtype}, it needs bfloat16 or float16"
    elif d % 8 or d > largest:
        reason = f"the head dimension is {d}, it needs a multiple of 8 up to {largest}"
    elif masked and (queries % 2 or keys % 2):
        reason = f"there are {queries} queries and {keys} keys under a mask, it needs even numbers"
    else:
        return _cudnn
    _log_fallback(reason)
    return _plain_narrow


@functools.cache
def _log_fallback(reason: str) -> None:
    """Log a reason once, because attention is traced many times per network."""
    _log.warning("attention on plain XLA instead of cuDNN: %s", reason)
