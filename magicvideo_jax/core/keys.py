"""Randomness has a name: every key is folded from a seed, a step and a purpose.

Same seed, same step, same purpose: same numbers, on any number of devices and after any resume. No key is
used twice, split or handed back.
"""

import zlib

import jax
from jaxtyping import Array, Int, PRNGKeyArray


def key_for(seed: int, step: int | Int[Array, ""], purpose: str) -> PRNGKeyArray:
    """The key of one purpose at one step; `step` may be traced."""
    return subkey(jax.random.fold_in(jax.random.key(seed), step), purpose)


def subkey(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """A key of `key`'s family for one purpose. CRC-32 of the name: stable over processes, unlike `hash`."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))
