"""FreeNoise: later noise is earlier noise in another order."""

import jax
import numpy as np
import pytest

from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.sampling.free_noise import free_noise, noise_frames

KEY = key_for(0, 0, "clip")


@pytest.mark.parametrize("frames", [16, 17, 20, 30, 32, 61, 64])
def test_each_block_of_frames_permutes_the_block_a_window_before(frames):
    source = np.asarray(noise_frames(KEY, frames, context=16))
    assert source.shape == (frames,)
    np.testing.assert_array_equal(source[:16], np.arange(16))
    for start in range(16, frames, 4):
        block = source[start : start + 4]
        earlier = source[start - 16 : start - 12]
        assert set(block) <= set(earlier)
        assert len(set(block)) == len(block)


def test_orders_are_random_and_belong_to_the_key():
    one, same, other = (
        np.asarray(noise_frames(key, 256, context=16)) for key in (KEY, KEY, key_for(0, 1, "clip"))
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    blocks = one[16:].reshape(-1, 4) % 4
    assert len({tuple(block) for block in blocks}) > 10  # of 24 orders, in 60 blocks


@pytest.mark.parametrize("frames", [7, 16])
def test_a_clip_that_fits_has_the_noise_of_its_key(frames):
    shape = (frames, 2, 3, 1)
    plain = jax.random.normal(subkey(KEY, "noise"), shape)
    np.testing.assert_array_equal(free_noise(KEY, shape, context=16), plain)


def test_long_noise_is_made_of_the_first_window():
    noise = np.asarray(free_noise(KEY, (40, 2, 3, 1), context=16))
    source = np.asarray(noise_frames(subkey(KEY, "noise order"), 40, context=16))
    np.testing.assert_array_equal(noise, noise[source])
    assert len(np.unique(noise[:16])) == noise[:16].size
    assert len(np.unique(noise)) == noise[:16].size


def test_windows_shorter_than_a_block_permute_what_there_is():
    source = np.asarray(noise_frames(KEY, 9, context=2))
    for start in range(0, 8, 2):
        assert set(source[start : start + 2]) == {0, 1}
