"""Known frames of training examples: which patterns, how often, and what the network is given of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.keys import key_for
from magicvideo_jax.diffusion.known_frames import known_frame_channels, with_known_frames
from magicvideo_jax.training.known_frame_patterns import KnownFramesConfig, draw_known_frames

T = 8
EVERY = KnownFramesConfig(first=0.25, first_and_last=0.125, beginning=0.25, every_fourth=0.125)


def drawn(config: KnownFramesConfig, *, examples: int = 8, rounds: int = 200) -> np.ndarray:
    keys = jax.random.split(key_for(0, 0, "a test"), rounds)
    masks = jax.vmap(lambda key: draw_known_frames(key, config, examples=examples, frames=T))(keys)
    return np.asarray(masks)


def test_each_pattern_is_as_frequent_as_the_config_says():
    masks = drawn(EVERY).reshape(-1, T)
    names, counts = np.unique([mask @ (1 << np.arange(T)) for mask in masks], return_counts=True)
    share = dict(zip(names.tolist(), (counts / len(masks)).tolist(), strict=True))
    beginnings = [(1 << k) - 1 for k in range(1, T)]
    others = {0: 0.25, 1: 0.25 + 0.25 / 7, 0b10000001: 0.125, 0b00010001: 0.125}
    assert set(share) == {*others, *beginnings}
    for pattern, expected in others.items():
        assert share[pattern] == pytest.approx(expected, abs=0.03), bin(pattern)
    for pattern in beginnings[1:]:
        assert share[pattern] == pytest.approx(0.25 / 7, abs=0.02), bin(pattern)


def test_a_batch_has_its_share_and_no_place_in_it_is_preferred():
    knows_one = drawn(KnownFramesConfig(first=0.5), examples=4).any(-1)
    assert (knows_one.sum(1) == 2).all()
    assert np.abs(knows_one.mean(0) - 0.5).max() < 0.15


def test_of_late_examples_the_beginning_is_known_whatever_the_policy():
    is_late, config = jnp.arange(8) % 2 == 0, KnownFramesConfig(first_and_last=0.5)
    key = key_for(0, 0, "a test")
    late = draw_known_frames(key, config, examples=8, frames=T, is_late=is_late)
    usual = draw_known_frames(key, config, examples=8, frames=T)
    np.testing.assert_array_equal(late[1::2], usual[1::2])
    known = np.asarray(late[::2])
    assert known[:, 0].all()
    assert not known[:, -1].any()
    assert (np.diff(known.astype(int), axis=1) <= 0).all()  # the first k and no other


def test_no_frame_is_known_without_a_policy_and_one_frame_never_is_a_beginning_of_itself():
    assert not drawn(KnownFramesConfig(), rounds=3).any()
    one = draw_known_frames(
        key_for(0, 0, "a test"), KnownFramesConfig(beginning=1.0), examples=2, frames=2
    )
    np.testing.assert_array_equal(one, [[True, False]] * 2)


def test_the_channels_are_the_latents_and_where_they_are_known():
    z = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 4))
    is_known = jnp.array([[True, False, True], [False] * 3])
    given = np.asarray(known_frame_channels(z, is_known))
    np.testing.assert_array_equal(given[0, 0], np.concatenate([z[0, 0], np.ones((2, 2, 1))], -1))
    np.testing.assert_array_equal(given[0, 2, ..., :4], z[0, 2])


def test_known_frames_come_through_and_others_go_on_from_them():
    draw = np.random.default_rng(0)
    z, known = (draw.normal(size=(2, 5, 2, 2, 4)).astype(np.float32) for _ in range(2))
    is_known = np.array([[False, True, False, False, True], [False] * 5])
    given = known_frame_channels(jnp.asarray(known), jnp.asarray(is_known))
    made = np.asarray(with_known_frames(jnp.asarray(z), given))
    np.testing.assert_array_equal(made[0, [1, 4]], known[0, [1, 4]])
    for frame, nearest in ((0, 1), (2, 1), (3, 4)):
        expected = z[0, frame] + 0.85 * (known[0, nearest] - z[0, nearest])
        np.testing.assert_allclose(made[0, frame], expected, atol=1e-5)
    np.testing.assert_array_equal(made[1], z[1])
