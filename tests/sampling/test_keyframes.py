"""Long clips of `sample_keyframes`: what the network is given, and what noise it begins with."""

import jax
import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.sampling.free_init import FreeInitConfig
from magicvideo_jax.sampling.free_noise import free_noise
from magicvideo_jax.sampling.keyframes import (
    SampleConfig,
    make_sampler_inputs,
    sample_keyframes,
)
from magicvideo_jax.sampling.windows import ContextConfig, ContextFusion, uniform_windows

NOISE = NoiseScheduleConfig(prediction_type=Prediction.X0, set_alpha_to_one=True)
SHAPE = (11, 2, 2, 1)
KEYS = jax.random.split(key_for(0, 0, "clips"), 2)
TEXT = jnp.ones((2, 3, 4))
FPS = jnp.array([8.0, 16.0])


def sampled(config, denoise, *, shape=SHAPE):
    """One step to z_0: the clip is what the network says."""

    @jax.jit
    def run(sampler):
        null_text = jnp.zeros_like(TEXT)
        return sample_keyframes(
            {}, Condition(TEXT, FPS), null_text, KEYS, denoise=denoise, sampler=sampler, shape=shape
        )

    return run(make_sampler_inputs(config, NOISE, shape=shape))


def noise_of(params, z, time, condition, *, attention_window):
    return z


def test_windows_of_distant_frames_have_a_lower_frame_rate():
    context = ContextConfig(frames=4, overlap=1, stride=2, loop=True)

    def denoise(params, z, time, condition, *, attention_window):
        assert z.shape == (4, 4, 2, 2, 1)  # two clips with and without their text, a window each
        assert attention_window is None
        return jnp.broadcast_to(condition.fps.reshape(-1, 1, 1, 1, 1), z.shape)

    got = sampled(SampleConfig(steps=1, context=context), denoise)
    total, count = np.zeros(11), np.zeros(11)
    for first, stride in uniform_windows(context, frames=11, step=0):
        frames = (first + stride * np.arange(4)) % 11
        np.add.at(total, frames, 1 / stride)
        np.add.at(count, frames, 1)
    expected = FPS[:, None] * (total / count)[None]
    np.testing.assert_allclose(got.mean((2, 3, 4)), expected, rtol=1e-5)


def test_noise_is_repeated_if_asked():
    for reuse_noise in (False, True):
        context = ContextConfig(frames=4, overlap=1, reuse_noise=reuse_noise)
        got = sampled(SampleConfig(steps=1, guidance=1.0, context=context), noise_of)
        drawn = [
            free_noise(key, SHAPE, context=4)
            if reuse_noise
            else jax.random.normal(subkey(key, "noise"), SHAPE)
            for key in KEYS
        ]
        np.testing.assert_allclose(got, np.stack(drawn), rtol=1e-5, atol=1e-6)


def test_attention_in_windows_is_left_to_a_network_that_sees_the_whole_clip():
    context, asked = ContextConfig(frames=4, fuse=ContextFusion.ATTENTION), []

    def denoise(params, z, time, condition, *, attention_window):
        asked.append((z.shape[1], attention_window))
        return z

    sampled(SampleConfig(steps=1, context=context), denoise)
    sampled(SampleConfig(steps=1, context=context), denoise, shape=(4, 2, 2, 1))
    assert asked == [(11, 4), (4, None)]


def test_a_clip_that_needs_nothing_has_the_sampler_of_a_short_one():
    plain = make_sampler_inputs(SampleConfig(), NOISE, shape=SHAPE)
    long = SampleConfig(context=ContextConfig(frames=11, reuse_noise=True))
    fits = make_sampler_inputs(long, NOISE, shape=SHAPE)
    assert jax.tree.structure(plain) == jax.tree.structure(fits)
    assert plain.windows is plain.free_init is None


def test_free_init_samples_again():
    once = sampled(SampleConfig(steps=1), noise_of)
    again = sampled(SampleConfig(steps=1, free_init=FreeInitConfig(iterations=2)), noise_of)
    assert again.shape == once.shape
    assert (np.abs(again - once) > 1e-3).mean() > 0.9
