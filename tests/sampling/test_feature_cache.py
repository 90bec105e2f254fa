"""Deep features evaluated at some steps and reused at the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import quick, random_params
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.sampling.keyframes import SampleConfig, make_sampler_inputs, sample_keyframes
from magicvideo_jax.sampling.windows import ContextConfig

NOISE = NoiseScheduleConfig(prediction_type=Prediction.X0)
SHAPE, STEPS = (1, 2, 2, 1), 7
KEYS = jax.random.split(key_for(0, 0, "a test"), 3)
TEXT = jnp.linspace(0.0, 1.0, 3)[:, None, None]  # one number a clip


def reusing(params, z, time, condition, deep):
    """Deep features are the latents and the time they were evaluated at; the output depends on them and on now."""
    if deep is None:
        deep = jnp.tanh(z) + 1e-3 * time[:, None, None, None, None]
    now = condition.text[:, :, :, None, None] - 1e-4 * time[:, None, None, None, None]
    return jnp.sin(3 * deep) + now + 0.3 * z, deep


def whole(params, z, time, condition, *, attention_window):
    return reusing(params, z, time, condition, None)[0]


def sampled(config: SampleConfig):
    asked = []

    def counted(params, z, time, condition, deep):
        jax.debug.callback(lambda: asked.append(len(z)), ordered=False) if deep is None else None
        return reusing(params, z, time, condition, deep)

    sampler = make_sampler_inputs(config, NOISE, shape=SHAPE)
    z = jax.jit(
        lambda sampler: sample_keyframes(
            {},
            Condition(TEXT),
            jnp.full_like(TEXT, 0.5),
            KEYS,
            denoise=whole,
            reusing=counted,
            sampler=sampler,
            shape=SHAPE,
        )
    )(sampler)
    jax.effects_barrier()
    return np.asarray(z), asked


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_steps_between_have_the_features_of_the_last_whole_evaluation(guidance):
    config = SampleConfig(steps=STEPS, guidance=guidance, feature_cache=3)
    got, asked = sampled(config)
    assert asked == [6] * 3  # with and without their text, at steps 0, 3 and 6

    table = make_sampler_inputs(config, NOISE, shape=SHAPE).table
    z = np.stack([jax.random.normal(subkey(key, "noise"), SHAPE) for key in KEYS])
    rows, deep = table.steps, None
    for i in range(STEPS):
        if i % 3 == 0:
            deep = np.tanh(z) + 1e-3 * rows.time[i]

        def output(text, z=z, deep=deep, i=i):
            return np.sin(3 * deep) + text[..., None, None] - 1e-4 * rows.time[i] + 0.3 * z

        with_text, without = output(np.asarray(TEXT)), output(np.full((3, 1, 1), 0.5))
        x0 = without + guidance * (with_text - without)
        z = rows.a[i] * z + rows.b[i] * x0
    np.testing.assert_allclose(got, z, rtol=1e-4, atol=1e-5)


def test_a_cache_of_one_step_is_none():
    plain = make_sampler_inputs(SampleConfig(steps=STEPS), NOISE, shape=SHAPE)
    assert plain.feature_cache is None


@pytest.mark.parametrize(
    "others", [{"guidance_interval": (0.2, 1.0)}, {"context": ContextConfig(frames=8)}]
)
def test_what_evaluates_the_network_in_parts_has_no_cache(others):
    with pytest.raises(UserError, match="feature_cache=2"):
        SampleConfig(feature_cache=2, **others)


def test_the_image_network_in_a_video_network_has_a_cache_too():
    model = tiny("video").model
    networks = Networks(model)
    params = random_params(networks.by_component[Component.UNET].shapes)
    z = jax.random.normal(KEYS[0], (1, 2, 8, 8, 4))
    condition = Condition(jax.random.normal(KEYS[1], (1, 3, model.unet.context)), jnp.ones(1))

    def both(unet):
        inputs = {"unet": unet}, z, jnp.array([7.0]), condition
        reusing = networks.denoise_reusing(*inputs, None, as_images=True)
        return networks.denoise(*inputs, as_images=True), reusing[0], networks.denoise(*inputs)

    images, with_cache, clips = quick(both)(params)
    np.testing.assert_allclose(with_cache, images, atol=1e-5)
    assert abs(clips - images).max() > 1e-2
