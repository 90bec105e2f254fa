"""Corruption and its inverses, guidance, loss weights."""

from typing import NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import (
    Prediction,
    corrupt,
    min_snr_weight,
    per_example_mse,
    target,
    to_x0,
)
from magicvideo_jax.diffusion.schedule import schedule_of

SHAPE = (3, 2, 4, 4, 2)


class Corrupted(NamedTuple):
    z0: jax.Array
    eps: jax.Array
    time: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    z: jax.Array


@pytest.fixture
def corrupted() -> Corrupted:
    z0, eps = (jax.random.normal(key_for(0, 0, name), SHAPE) for name in ("z0", "eps"))
    schedule, time = schedule_of(NoiseScheduleConfig()), jnp.array([3, 400, 990])
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    return Corrupted(z0, eps, time, alpha, sigma, corrupt(z0, eps, alpha, sigma))


def test_corruption_and_v_are_those_of_diffusers(corrupted):
    theirs = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    z0, eps, time = (
        torch.from_numpy(np.array(x)) for x in (corrupted.z0, corrupted.eps, corrupted.time)
    )
    np.testing.assert_allclose(corrupted.z, theirs.add_noise(z0, eps, time), rtol=1e-4, atol=1e-5)
    v = target(
        Prediction.V, corrupted.z0, corrupted.eps, alpha=corrupted.alpha, sigma=corrupted.sigma
    )
    np.testing.assert_allclose(v, theirs.get_velocity(z0, eps, time), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", Prediction)
def test_a_perfect_prediction_gives_back_the_clean_latents(corrupted, kind):
    level = {"alpha": corrupted.alpha, "sigma": corrupted.sigma}
    answer = target(kind, corrupted.z0, corrupted.eps, **level)
    x0 = to_x0(kind, answer, corrupted.z, **level)
    np.testing.assert_allclose(x0, corrupted.z0, atol=2e-5)


def test_one_level_for_all_is_a_level_each_and_bfloat16_is_computed_in_float32(corrupted):
    alpha, sigma = corrupted.alpha[1], corrupted.sigma[1]
    once = corrupt(corrupted.z0, corrupted.eps, alpha, sigma)
    each = corrupt(corrupted.z0, corrupted.eps, jnp.full(3, alpha), jnp.full(3, sigma))
    np.testing.assert_array_equal(once, each)
    half = corrupted.z0.astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        assert corrupt(half, half, alpha, sigma).dtype == jnp.float32


def condition(seed: int, batch: int) -> Condition:
    return Condition(
        text=jax.random.normal(key_for(seed, 0, "text"), (batch, 5, 2)),
        fps=jax.random.uniform(key_for(seed, 0, "fps"), (batch,)),
    )


def network(z, time, told):
    """Any function in which no example sees another."""
    scale = jnp.mean(told.text, axis=(1, 2)) + told.fps + time / 1000
    return jnp.sin(z + scale.reshape(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("null_batch", [1, 3])
def test_guidance_is_two_calls(corrupted, null_batch):
    told, null = condition(1, 3), condition(2, null_batch)
    time = corrupted.time.astype(jnp.float32)
    calls = []

    def counted(z, time, told):
        calls.append(z.shape)
        return network(z, time, told)

    got = guided(counted, 7.5, null)(corrupted.z, time, told)
    wide = jax.tree.map(lambda n, t: jnp.broadcast_to(n, t.shape), null, told)
    e_null, e_told = network(corrupted.z, time, wide), network(corrupted.z, time, told)
    np.testing.assert_allclose(got, e_null + 7.5 * (e_told - e_null), rtol=1e-5, atol=1e-5)
    assert calls == [(6, *SHAPE[1:])]


def test_guidance_of_one_is_none(corrupted):
    assert guided(network, 1.0, condition(2, 3)) is network
    time, told = corrupted.time.astype(jnp.float32), condition(1, 3)
    nearly = guided(network, 1.0 + 1e-7, condition(2, 3))(corrupted.z, time, told)
    np.testing.assert_allclose(nearly, network(corrupted.z, time, told), atol=1e-6)


def test_guidance_rescale_restores_the_deviation(corrupted):
    told, null, time = condition(1, 3), condition(2, 3), corrupted.time.astype(jnp.float32)
    e_told = np.asarray(network(corrupted.z, time, told), np.float64)
    plain = np.asarray(guided(network, 7.5, null)(corrupted.z, time, told), np.float64)
    got = guided(network, 7.5, null, rescale=0.7)(corrupted.z, time, told)
    for mine, pushed, aim in zip(got, plain, e_told, strict=True):
        np.testing.assert_allclose(
            mine, 0.7 * pushed * aim.std() / pushed.std() + 0.3 * pushed, rtol=1e-5, atol=1e-5
        )
    with pytest.raises(UserError, match=r"rescale=1\.5"):
        guided(network, 7.5, null, rescale=1.5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 99.0), (200.0, 400.0), (301.0, 999.0)])
def test_guidance_applies_in_its_interval_and_nowhere_else(corrupted, low, high):
    told, null, time = condition(1, 3), condition(2, 3), jnp.full(3, 300.0)
    got = jax.jit(lambda: guided(network, 7.5, null, interval=(low, high))(corrupted.z, time, told))
    inside = low <= 300 <= high
    expected = (guided(network, 7.5, null) if inside else network)(corrupted.z, time, told)
    np.testing.assert_allclose(got(), expected, rtol=1e-5, atol=1e-5)


def test_guidance_keeps_the_type_of_the_latents(corrupted):
    told, null, time = condition(1, 3), condition(2, 3), corrupted.time.astype(jnp.float32)

    def half(z, time, told):
        return network(z.astype(jnp.float32), time, told).astype(z.dtype)

    assert (
        guided(half, 3.0, null)(corrupted.z.astype(jnp.bfloat16), time, told).dtype == jnp.bfloat16
    )


def test_guidance_moves_nothing_between_devices():
    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(devices, PartitionSpec("data"))
    z, told = jnp.zeros((8, *SHAPE[1:])), condition(1, 8)
    arguments = jax.device_put((z, jnp.zeros(8), told), spread)
    program = (
        jax.jit(guided(network, 7.5, condition(2, 1)), out_shardings=spread)
        .lower(*arguments)
        .compile()
    )
    text = program.as_text() or ""
    assert text
    for collective in ("all-to-all", "all-gather", "collective-permute", "all-reduce"):
        assert collective not in text, collective


def test_loss_is_per_example_and_in_float32():
    output = jnp.full((2, 3, 4, 4, 2), 2.0, jnp.bfloat16).at[1].set(0)
    losses = per_example_mse(output, jnp.zeros_like(output))
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, [4, 0])


@pytest.mark.parametrize("kind", Prediction)
def test_min_snr_weights_are_their_formula(kind):
    schedule = schedule_of(NoiseScheduleConfig())
    time = jnp.arange(1000)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    divisor = {Prediction.X0: 1.0, Prediction.EPS: snr, Prediction.V: snr + 1}[kind]
    got = min_snr_weight(kind, alpha=schedule.alpha(time), sigma=schedule.sigma(time), gamma=5.0)
    np.testing.assert_allclose(got, np.minimum(snr, 5.0) / divisor, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "weight"), [(Prediction.X0, 0), (Prediction.EPS, 1), (Prediction.V, 0)]
)
def test_min_snr_weights_hold_in_pure_noise(kind, weight):
    np.testing.assert_array_equal(
        min_snr_weight(kind, alpha=jnp.zeros(1), sigma=jnp.ones(1)), [weight]
    )
