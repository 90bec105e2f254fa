"""Consistency distillation, on networks of one number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.training.consistency import ConsistencyConfig, boundary, consistency_objective
from magicvideo_jax.training.objectives import DenoisingNetworks, stratified_times

NOISE = NoiseScheduleConfig(prediction_type=Prediction.X0)
KEY = key_for(0, 0, "a test")
BATCH = {
    "latents": jax.random.normal(subkey(KEY, "latents"), (50, 1, 2, 2, 1)),
    "ids": jnp.arange(50, dtype=jnp.int32)[:, None],
}
CONFIG = ConsistencyConfig(guidance=(2.0, 5.0), huber=0.1)


def encode_text(params, ids):
    return 0.1 * ids[..., None].astype(jnp.float32)


def student(params, z, time, condition):
    """Estimates of z_0 that depend on everything that a student is told."""
    per_clip = (1e-4 * time + 0.1 * condition.guidance + condition.text[:, 0, 0])[
        :, None, None, None, None
    ]
    return params["student"] * z + per_clip


def teacher(params, z, time, condition):
    per_clip = (1e-4 * time + condition.text[:, 0, 0])[:, None, None, None, None]
    return params["teacher"] * z + per_clip


def objective(denoise=student, teach=teacher):
    networks = DenoisingNetworks(encode=lambda *_: None, encode_text=encode_text, denoise=denoise)
    return consistency_objective(networks, teach, NOISE, CONFIG, null_ids=np.zeros(1, np.int32))


def test_it_is_equation_2_and_its_gradient_goes_through_the_student_at_the_noisier_time_alone():
    params = {"student": jnp.float32(0.3), "teacher": jnp.float32(0.5)}
    (loss, _), grads = jax.value_and_grad(objective(), has_aux=True)(params, BATCH, KEY, 0)

    abar = schedule_of(NOISE).alphas_cumprod
    times = np.arange(50, 0, -1) * 20 - 1
    t = times[np.asarray(stratified_times(subkey(KEY, "time"), 50, 50))]
    assert sorted(t) == sorted(times)  # a batch of fifty covers every time
    s = np.maximum(t - 20, 0)
    w = np.asarray(
        jax.random.uniform(subkey(KEY, "guidance"), (50,), minval=2.0, maxval=5.0), np.float64
    )
    text = 0.1 * np.arange(50)
    z0 = np.asarray(BATCH["latents"], np.float64).reshape(50, 4)
    eps = np.asarray(jax.random.normal(subkey(KEY, "noise"), BATCH["latents"].shape), np.float64)
    eps = eps.reshape(50, 4)

    def level(time):
        return np.sqrt(abar[time])[:, None], np.sqrt(1 - abar[time])[:, None]

    alpha, sigma = level(t)
    z = alpha * z0 + sigma * eps
    without = 0.5 * z + 1e-4 * t[:, None]
    with_text = without + text[:, None]
    guided = without + w[:, None] * (with_text - without)
    alpha_s, sigma_s = level(s)
    z_s = alpha_s * guided + sigma_s * (z - alpha * guided) / sigma

    def f(a, z, time):
        x0 = a * z + (1e-4 * time + 0.1 * w + text)[:, None]
        skip = 0.25 / ((10 * time) ** 2 + 0.25)
        out = 10 * time / np.sqrt((10 * time) ** 2 + 0.25)
        return skip[:, None] * z + out[:, None] * x0

    def expected(a):
        difference = f(a, z, t) - f(0.3, z_s, s)
        return np.mean(np.sqrt(difference**2 + 0.01) - 0.1)

    np.testing.assert_allclose(loss, expected(0.3), rtol=1e-5)
    slope = (expected(0.3 + 1e-6) - expected(0.3 - 1e-6)) / 2e-6
    np.testing.assert_allclose(grads["student"], slope, rtol=1e-4)
    assert grads["teacher"] == 0


def test_there_is_nothing_to_learn_for_a_student_that_knows_the_answer():
    def knows(params, z, time, condition):
        return jnp.repeat(BATCH["latents"], len(z) // 50, axis=0)

    loss, _ = objective(knows, knows)({}, BATCH, KEY, 0)
    assert float(loss) < 1e-4  # not 0: at time 0 latents still have the noise of the schedule


def test_latents_at_time_0_are_clean():
    skip, out = boundary(jnp.array([0, 999]))
    np.testing.assert_allclose(skip, [1, 0], atol=1e-8)
    np.testing.assert_allclose(out, [0, 1], atol=1e-8)


@pytest.mark.parametrize("guidance", [(), (3.0,), (5.0, 2.0), (0.5, 2.0)])
def test_a_range_of_guidance_goes_up_from_1(guidance):
    with pytest.raises(FieldError, match="guidance="):
        ConsistencyConfig(guidance=guidance)
