"""Named random keys: every key is folded from a seed, a step and a purpose.

The same seed, step and purpose give the same numbers, on any number of devices and after any
resume. No key is used twice, split or returned.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from magicvideo_jax.core.checks import FieldError

LARGEST_SEED = 2**63 - 1


def check_seed(seed: int) -> int:
    """The seed, if it is one. Errors: `FieldError` outside of 0 to 2^63 - 1."""
    if not 0 <= seed <= LARGEST_SEED:
        raise FieldError(f"seed={seed}: give a whole number from 0 to 2^63-1 ({LARGEST_SEED})")
    return seed


def key_for(seed: int, step: int | Int[Array, ""], purpose: str) -> PRNGKeyArray:
    """The key of one purpose at one step; `step` may be traced. Errors: those of `check_seed`."""
    return subkey(jax.random.fold_in(_seeded(check_seed(seed)), step), purpose)


def subkey(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """Key derived from `key` for one purpose."""
    # CRC-32 of the name is the same in every process, unlike `hash`.
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def _seeded(seed: int) -> PRNGKeyArray:
    """The key of all 63 bits; `jax.random.key` takes 32, and drops the others without a word."""
    high, low = divmod(seed, 2**32)
    key = jax.random.key(np.uint32(low))
    return jax.random.fold_in(subkey(key, "high bits of the seed"), high) if high else key
