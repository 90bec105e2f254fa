"""Keys: small seeds keep their numbers, every seed has its own."""

import jax
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import LARGEST_SEED, key_for, subkey


def bits(seed: int) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key_for(seed, 3, "noise"))).tolist())


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_have_the_keys_that_jax_gives_them(seed):
    usual = subkey(jax.random.fold_in(jax.random.key(seed), 3), "noise")
    assert bits(seed) == tuple(np.asarray(jax.random.key_data(usual)).tolist())


def test_every_seed_of_63_bits_has_a_key_of_its_own():
    high = [k * 2**32 + low for k in (0, 1, 2, 2**31 - 1) for low in (0, 1, 3, 2**32 - 1)]
    seeds = {*high, LARGEST_SEED, LARGEST_SEED - 1, 2**62}
    assert len({bits(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("seed", [-1, -(2**32), 2**63, 2**64 + 1])
def test_other_seeds_are_refused(seed):
    with pytest.raises(UserError, match=rf"seed={seed}: give a whole number from 0 to 2\^63-1"):
        key_for(seed, 0, "noise")
