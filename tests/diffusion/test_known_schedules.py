"""Schedules of published models, against diffusers' schedulers with the authors' settings and
against formulas written out in float64."""

from dataclasses import replace

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_paths import NOISE, assert_same_path, step_noise, walked, walked_by_euler

from magicvideo_jax.diffusion.known_schedules import (
    ANIMATEDIFF_IN_DIFFUSERS_NOISE,
    ANIMATEDIFF_NOISE,
    LAVIE_DDIM_NOISE,
    LAVIE_EULER_NOISE,
    LAVIE_INTERPOLATION_NOISE,
    LAVIE_NOISE,
    LAVIE_VSR_NOISE,
    LOW_RESOLUTION_NOISE,
)
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.solvers import ddim, ddpm, euler
from magicvideo_jax.diffusion.spacing import sampling_times

LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


@pytest.mark.parametrize(
    ("schedule", "time", "abar"),
    [
        (LAVIE_NOISE, 0, 0.9999),
        (LAVIE_NOISE, 20, 0.99373543),
        (LAVIE_NOISE, 980, 5.90375e-5),
        (LAVIE_NOISE, 999, 4.03583e-5),
        (LAVIE_VSR_NOISE, 20, 0.99373543),
        (LAVIE_INTERPOLATION_NOISE, 980, 5.90375e-5),
        (LOW_RESOLUTION_NOISE, 50, 0.99084381),
        (ANIMATEDIFF_NOISE, 999, 0.00157896),
    ],
)
def test_noise_levels_are_the_published(schedule, time, abar):
    np.testing.assert_allclose(schedule_of(schedule).alphas_cumprod[time], abar, rtol=4e-6)


@pytest.mark.parametrize(
    ("schedule", "steps", "first", "last"),
    [
        (LAVIE_NOISE, 50, [980, 960, 940], [20, 0]),
        (LAVIE_DDIM_NOISE, 50, [981, 961], [21, 1]),
        (LAVIE_INTERPOLATION_NOISE, 50, [999, 979, 958], [61, 41, 20, 0]),
        (LAVIE_VSR_NOISE, 50, [981, 961], [21, 1]),
        (ANIMATEDIFF_NOISE, 25, [961, 921], [41, 1]),
        (ANIMATEDIFF_IN_DIFFUSERS_NOISE, 25, [999, 957], [42, 0]),
    ],
)
def test_times_are_the_published(schedule, steps, first, last):
    times = list(sampling_times(schedule, steps))
    assert len(times) == steps
    assert times[: len(first)] == first
    assert times[-len(last) :] == last


@pytest.mark.parametrize(
    ("schedule", "steps", "scheduler"),
    [
        (LAVIE_DDIM_NOISE, 50, {**LINEAR, "steps_offset": 1, "set_alpha_to_one": False}),
        (
            LAVIE_VSR_NOISE,
            50,
            {
                **LINEAR,
                "steps_offset": 1,
                "set_alpha_to_one": False,
                "prediction_type": "v_prediction",
            },
        ),
        (
            ANIMATEDIFF_NOISE,
            25,
            {
                "beta_schedule": "linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "steps_offset": 1,
                "set_alpha_to_one": True,
            },
        ),
        (
            ANIMATEDIFF_IN_DIFFUSERS_NOISE,
            25,
            {
                "beta_schedule": "linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "steps_offset": 1,
                "set_alpha_to_one": False,
                "timestep_spacing": "linspace",
            },
        ),
    ],
    ids=["lavie", "lavie_vsr", "animatediff", "animatediff_in_diffusers"],
)
def test_ddim_is_that_of_diffusers_with_the_published_settings(schedule, steps, scheduler):
    theirs = diffusers.DDIMScheduler(**scheduler, clip_sample=False)
    assert_same_path(ddim(schedule, steps), walked(theirs, NOISE, steps))


def test_ddpm_is_that_of_lavie(monkeypatch):
    number = iter(range(50))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: step_noise(next(number)),
    )
    theirs = diffusers.DDPMScheduler(
        **LINEAR, steps_offset=0, clip_sample=False, variance_type="fixed_small"
    )
    assert_same_path(ddpm(LAVIE_NOISE, 50), walked(theirs, NOISE, 50))


def test_euler_is_that_of_lavie():
    assert_same_path(euler(LAVIE_EULER_NOISE, 50), walked_by_euler(LAVIE_EULER_NOISE, NOISE, 50))
    # LaVie's version of diffusers starts from noise times the largest sigma of all training times.
    abar = schedule_of(LAVIE_NOISE).alphas_cumprod[999]
    largest = np.sqrt((1 - abar) / abar)
    np.testing.assert_allclose(
        euler(LAVIE_EULER_NOISE, 50).start_scale, largest / np.sqrt(1 + largest**2), rtol=1e-6
    )


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_interpolation_is_the_respaced_diffusion_of_openai(steps):
    """Written out in float64: the betas of a chain of the listed times alone, DDIM (2010.02502,
    eq. 12) on that chain, and a network that is evaluated at the original times."""
    chosen = [round(i * 999 / max(steps - 1, 1)) for i in range(steps)]
    abar, last, betas = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)), 1.0, []
    for time in chosen:
        betas.append(1 - abar[time] / last)
        last = abar[time]
    respaced = np.cumprod(1 - np.array(betas))
    before = np.append(1.0, respaced[:-1])
    weights = np.sin(np.arange(NOISE.size)).reshape(NOISE.shape)

    def e(z, time):
        return 0.6 * z + 0.3 * np.cos(0.004 * time) * weights

    z = np.asarray(NOISE, np.float64)
    for i in reversed(range(steps)):
        eps = e(z, chosen[i])
        x0 = z / np.sqrt(respaced[i]) - np.sqrt(1 / respaced[i] - 1) * eps
        z = np.sqrt(before[i]) * x0 + np.sqrt(1 - before[i]) * eps

    table = ddim(LAVIE_INTERPOLATION_NOISE, steps)
    assert table.start_scale == 1
    assert not table.is_stochastic
    np.testing.assert_array_equal(table.steps.time, chosen[::-1])

    def denoise(z, time, condition):
        wave = jnp.cos(0.004 * time).reshape(-1, 1, 1, 1, 1)
        return 0.6 * z + 0.3 * wave * jnp.asarray(weights, jnp.float32)

    got = run_sampler(denoise, initial_latents(table, NOISE), None, table=table)
    assert np.abs(got - z).max() / np.abs(z).max() < 1e-6


def test_ending_at_the_next_time_is_not_ddim_of_diffusers():
    ours = ddim(LAVIE_INTERPOLATION_NOISE, 50)
    diffusers_way = ddim(replace(LAVIE_INTERPOLATION_NOISE, steps_end_at_next_time=False), 50)
    np.testing.assert_array_equal(ours.steps.time, diffusers_way.steps.time)
    assert np.abs(ours.steps.a - diffusers_way.steps.a).max() > 1e-3
