"""Noise that frames share: alike frames of a network that sees them one by one come out alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.known_schedules import LOW_RESOLUTION_NOISE
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.sampling.frame_noise import FrameNoise
from magicvideo_jax.sampling.keyframes import (
    SampleConfig,
    Sampler,
    make_sampler_inputs,
    sample_keyframes,
)
from magicvideo_jax.sampling.super_resolution import noisy_pictures

NOISE = NoiseScheduleConfig(prediction_type=Prediction.X0)
SHAPE = (5, 3, 4, 2)
KEYS = jax.random.split(key_for(0, 0, "clips"), 2)


def sampled(config: SampleConfig) -> np.ndarray:
    def denoise(params, z, time, condition, *, attention_window):
        return 0.5 * z

    text = jnp.ones((2, 1, 1))
    sampler = make_sampler_inputs(config, NOISE, shape=SHAPE)
    return np.asarray(
        jax.jit(
            lambda sampler: sample_keyframes(
                {}, Condition(text), text, KEYS, denoise=denoise, sampler=sampler, shape=SHAPE
            )
        )(sampler)
    )


@pytest.mark.parametrize("sampler", [Sampler.DDIM, Sampler.DDPM])
def test_frames_share_the_first_noise_and_that_of_every_step(sampler: Sampler):
    """The network has no view of other frames; clips have noise of their own."""
    config = SampleConfig(sampler, steps=3, frame_noise=FrameNoise.SHARED)
    made = sampled(config)
    np.testing.assert_array_equal(made, np.repeat(made[:, :1], 5, axis=1))
    assert not np.allclose(made[0], made[1])
    own = sampled(SampleConfig(sampler, steps=3))
    assert np.abs(np.diff(own, axis=1)).min(axis=(2, 3, 4)).max() > 0


def test_frames_without_shared_noise_have_that_of_the_key():
    one = sampled(SampleConfig(steps=1, guidance=1.0))
    eps = jax.vmap(lambda key: jax.random.normal(subkey(key, "noise"), SHAPE))(KEYS)
    ratio = one / np.asarray(eps)
    np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.mean()), rtol=1e-4)


def test_small_pictures_share_the_noise_that_is_added_to_them():
    x = jnp.zeros((2, 3, 4, 4, 3))
    level, shares = jnp.array([50, 0]), jnp.array([True, False])
    noisy = noisy_pictures(x, KEYS, LOW_RESOLUTION_NOISE, level=level, shares_noise=shares)
    np.testing.assert_array_equal(noisy[0], np.repeat(noisy[0, :1], 3, axis=0))
    assert np.abs(np.diff(noisy[1], axis=0)).max() > 0
    own = noisy_pictures(x, KEYS, LOW_RESOLUTION_NOISE, level=level)
    np.testing.assert_array_equal(noisy[1], own[1])
    np.testing.assert_array_equal(noisy[0, 0], own[0, 0])
    # Level 0 is nearly clean.
    assert float(noisy[1].std()) == pytest.approx(1e-4**0.5, rel=0.3)
