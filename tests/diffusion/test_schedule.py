"""Schedules and spacings are those of diffusers."""

import itertools
from dataclasses import replace

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.spacing import fractional_sampling_times, sampling_times

STABLE_DIFFUSION = NoiseScheduleConfig()


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("shape", BetaSchedule)
def test_schedule_is_that_of_diffusers(shape, zero_terminal):
    settings = replace(STABLE_DIFFUSION, beta_schedule=shape, rescale_betas_zero_snr=zero_terminal)
    theirs = diffusers.DDIMScheduler(
        beta_schedule=shape.value,
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=zero_terminal,
    ).alphas_cumprod.numpy()
    np.testing.assert_allclose(schedule_of(settings).alphas_cumprod, theirs, rtol=1e-4, atol=2e-7)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first():
    plain = schedule_of(STABLE_DIFFUSION)
    rescaled = schedule_of(replace(STABLE_DIFFUSION, rescale_betas_zero_snr=True))
    assert rescaled.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-12)
    assert (np.diff(rescaled.alphas_cumprod) < 0).all()


def test_alpha_and_sigma_are_gathered_in_float32_and_preserve_variance():
    schedule, time = schedule_of(STABLE_DIFFUSION), jnp.array([[0, 7], [500, 999]])
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    assert alpha.dtype == sigma.dtype == jnp.float32
    assert alpha.shape == time.shape
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(alpha[1, 1] ** 2, schedule.alphas_cumprod[999], rtol=1e-6)
    assert len(schedule) == 1000


@pytest.mark.parametrize("spacing", Spacing)
def test_times_are_those_of_ddim_for_every_step_count(spacing):
    settings = replace(STABLE_DIFFUSION, timestep_spacing=spacing)
    theirs = diffusers.DDIMScheduler(timestep_spacing=spacing.value, steps_offset=1)
    for steps in range(1, 1000):
        theirs.set_timesteps(steps)
        np.testing.assert_array_equal(
            sampling_times(settings, steps), theirs.timesteps.numpy()[:steps], err_msg=str(steps)
        )


@pytest.mark.parametrize(("spacing", "offset"), [*itertools.product(Spacing, [0, 1])])
def test_times_are_those_of_euler_and_dpm_solver(spacing, offset):
    settings = replace(STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=offset)
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing.value, steps_offset=offset)
    solver = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing=spacing.value, steps_offset=offset
    )
    for steps in (*range(1, 60), 99, 100, 250, 333, 500):
        euler.set_timesteps(steps)
        solver.set_timesteps(steps)
        ours = fractional_sampling_times(settings, steps)
        np.testing.assert_allclose(
            ours, euler.timesteps.numpy()[:steps], rtol=1e-6, err_msg=str(steps)
        )
        ours = sampling_times(settings, steps, skip_last=True)
        np.testing.assert_array_equal(ours, solver.timesteps.numpy()[:steps], err_msg=str(steps))


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_step_counts_are_named(steps):
    with pytest.raises(UserError, match=f"steps={steps}"):
        sampling_times(STABLE_DIFFUSION, steps)


def test_times_past_the_last_are_refused():
    with pytest.raises(UserError, match="steps=1000 with steps_offset=1"):
        sampling_times(STABLE_DIFFUSION, 1000)
    with pytest.raises(UserError, match="give 1 to 999"):
        sampling_times(STABLE_DIFFUSION, 1000, skip_last=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_timesteps", 0),
        ("beta_end", 1.0),
        ("steps_offset", -1),
        ("clip_sample_range", 0.0),
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        replace(STABLE_DIFFUSION, **{field: value})
