"""Named random keys: every key is folded from a seed, a step and a purpose.

The same seed, step and purpose give the same numbers, on any number of devices and after any resume. No key is used
twice, split or returned.
"""

import zlib

import jax
from jaxtyping import Array, Int, PRNGKeyArray


def key_for(seed: int, step: int | Int[Array, ""], purpose: str) -> PRNGKeyArray:
    """Key for one purpose at one step. `step` may be traced."""
    return subkey(jax.random.fold_in(jax.random.key(seed), step), purpose)


def subkey(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """Key derived from `key` for one purpose."""
    # CRC-32 of the name is the same in every process, unlike `hash`.
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))
