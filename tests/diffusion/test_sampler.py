"""Every sampler, step for step, against diffusers' scheduler of that name."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sampler_paths import (
    KEYS,
    NOISE,
    SHAPE,
    assert_same_path,
    network,
    path_of,
    scheduler_of,
    step_noise,
    walked,
    walked_by_euler,
)

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction, to_x0
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.solvers import (
    consistency,
    ddim,
    ddpm,
    dpm_solver,
    euler,
    image_to_image_table,
    uni_pc,
)

STEP_COUNTS = [1, 2, 5, 20]
EVERY_SETTING = [
    pytest.param(
        NoiseScheduleConfig(prediction_type=kind, timestep_spacing=spacing),
        id=f"{kind.name}-{spacing.name}",
    )
    for kind in Prediction
    for spacing in Spacing
]


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_ddim(settings, steps):
    scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
    assert_same_path(ddim(settings, steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize(("eta", "steps"), [(0.3, 20), (1.0, 5)])
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_ddim_with_noise(settings, eta, steps):
    scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
    theirs = walked(scheduler, NOISE, steps, eta=eta)
    assert_same_path(ddim(settings, steps, eta=eta), theirs)


def test_ddim_may_land_on_clean_latents():
    settings = NoiseScheduleConfig(set_alpha_to_one=True)
    scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
    assert_same_path(ddim(settings, 5), walked(scheduler, NOISE, 5))


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_ddpm(settings, steps, monkeypatch):
    number = iter(range(steps))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: step_noise(next(number)),
    )
    scheduler = scheduler_of(diffusers.DDPMScheduler, settings)
    assert_same_path(ddpm(settings, steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_euler(settings, steps):
    assert_same_path(euler(settings, steps), walked_by_euler(settings, NOISE, steps))


@pytest.mark.parametrize("spacing", Spacing)
def test_euler_begins_where_diffusers_does(spacing):
    settings = NoiseScheduleConfig(timestep_spacing=spacing)
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, settings)
    scheduler.set_timesteps(5)
    theirs = float(scheduler.init_noise_sigma / (1 + scheduler.sigmas[0] ** 2) ** 0.5)
    np.testing.assert_allclose(
        initial_latents(euler(settings, 5), NOISE), theirs * NOISE, rtol=1e-6
    )


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_dpm_solver(settings, steps):
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, settings)
    assert_same_path(dpm_solver(settings, steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_uni_pc(settings, steps):
    scheduler = scheduler_of(diffusers.UniPCMultistepScheduler, settings)
    assert_same_path(uni_pc(settings, steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("kind", [Prediction.EPS, Prediction.V])
def test_consistency(kind, steps):
    """diffusers' estimate is the network's but for a share of z, c_skip: 6.9e-6 at the last time."""
    settings = NoiseScheduleConfig(prediction_type=kind)
    scheduler = scheduler_of(diffusers.LCMScheduler, settings, original_inference_steps=50)
    number = iter(range(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "diffusers.schedulers.scheduling_lcm.randn_tensor",
            lambda *_, **__: step_noise(next(number)),
        )
        theirs = walked(scheduler, NOISE, steps)
    assert_same_path(consistency(settings, steps), theirs)


def test_consistency_has_no_more_steps_than_were_distilled():
    with pytest.raises(UserError, match="steps=51"):
        consistency(NoiseScheduleConfig(), 51)


@pytest.mark.parametrize("steps", [14, 15])
def test_dpm_solver_where_the_rule_for_few_steps_ends(steps):
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, NoiseScheduleConfig())
    assert_same_path(dpm_solver(NoiseScheduleConfig(), steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize("shape", [BetaSchedule.LINEAR, BetaSchedule.COSINE])
def test_other_schedules(shape):
    settings = NoiseScheduleConfig(
        beta_schedule=shape, prediction_type=Prediction.V, steps_offset=0
    )
    scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
    assert_same_path(ddim(settings, 5), walked(scheduler, NOISE, 5))
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, settings)
    assert_same_path(dpm_solver(settings, 5), walked(scheduler, NOISE, 5))
    assert_same_path(euler(settings, 5), walked_by_euler(settings, NOISE, 5))


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("kind", Prediction)
@pytest.mark.parametrize("spacing", [Spacing.TRAILING, Spacing.LINSPACE])
def test_zero_terminal_snr(kind, spacing, steps):
    settings = NoiseScheduleConfig(
        prediction_type=kind, timestep_spacing=spacing, rescale_betas_zero_snr=True
    )
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, settings)
    assert_same_path(dpm_solver(settings, steps), walked(scheduler, NOISE, steps))
    scheduler = scheduler_of(diffusers.UniPCMultistepScheduler, settings)
    assert_same_path(uni_pc(settings, steps), walked(scheduler, NOISE, steps))
    # diffusers adds numbers of size 4096 here, of which float32 keeps 4096 * 2^-23 = 5e-4, a few times; which way it
    # rounds depends on the processor (found: 2e-4 to 1.2e-3). The test below adds in float64.
    assert_same_path(euler(settings, steps), walked_by_euler(settings, NOISE, steps), within=2e-3)
    if spacing is Spacing.TRAILING and kind is not Prediction.EPS:
        scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
        assert_same_path(ddim(settings, steps), walked(scheduler, NOISE, steps))


@pytest.mark.parametrize("kind", Prediction)
def test_euler_is_algorithm_1_of_karras_in_float64(kind):
    """y <- y + (y - x_0) / s (s' - s), where y = z / alpha and s = sigma / alpha, from nearly infinite s."""
    settings = NoiseScheduleConfig(
        prediction_type=kind,
        timestep_spacing=Spacing.TRAILING,
        rescale_betas_zero_snr=True,
        num_train_timesteps=100,
    )
    table = euler(settings, 5)
    abar = np.maximum(schedule_of(settings).alphas_cumprod[[99, 79, 59, 39, 19]], 2.0**-24)
    s = np.append(np.sqrt((1 - abar) / abar), 0)
    y, path = np.asarray(NOISE, np.float64) / np.sqrt(abar[0]), []
    for number in range(5):
        alpha, z = np.sqrt(abar[number]), y * np.sqrt(abar[number])
        output = network(torch.from_numpy(z), table.steps.time[number], None).numpy()
        sigma = s[number] * alpha
        x0 = {
            Prediction.EPS: (z - sigma * output) / alpha,
            Prediction.X0: output,
            Prediction.V: alpha * z - sigma * output,
        }[kind]
        y = y + (y - x0) / s[number] * (s[number + 1] - s[number])
        path.append(y / np.sqrt(1 + s[number + 1] ** 2))
    assert_same_path(table, np.stack(path), within=1e-5)


def test_pure_noise_says_nothing_to_a_network_that_predicts_noise():
    settings = NoiseScheduleConfig(timestep_spacing=Spacing.TRAILING, rescale_betas_zero_snr=True)
    for sampler in (ddim, ddpm):
        with pytest.raises(UserError, match="prediction_type=EPS with rescale_betas_zero_snr"):
            sampler(settings, 5)


def test_clipped_estimates(monkeypatch):
    settings = NoiseScheduleConfig(
        prediction_type=Prediction.X0, clip_sample=True, clip_sample_range=0.5
    )
    scheduler = scheduler_of(diffusers.DDIMScheduler, settings)
    assert_same_path(ddim(settings, 5), walked(scheduler, NOISE, 5, use_clipped_model_output=True))
    number = iter(range(5))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: step_noise(next(number)),
    )
    scheduler = scheduler_of(diffusers.DDPMScheduler, settings)
    assert_same_path(ddpm(settings, 5), walked(scheduler, NOISE, 5))


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_late_start_is_that_of_image_to_image(strength):
    settings = NoiseScheduleConfig()
    begin_at = 20 - int(20 * strength)
    z0 = jnp.full(SHAPE, 0.8)
    table = image_to_image_table(dpm_solver(settings, 20), strength)
    z = initial_latents(table, NOISE, z0)
    scheduler = scheduler_of(diffusers.DPMSolverMultistepScheduler, settings)
    scheduler.set_timesteps(20)
    torch_z0, torch_eps = torch.from_numpy(np.array(z0)), torch.from_numpy(np.array(NOISE))
    np.testing.assert_allclose(
        z,
        scheduler.add_noise(torch_z0, torch_eps, scheduler.timesteps[begin_at : begin_at + 1]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert_same_path(table, walked(scheduler, z, 20, begin_at=begin_at), z)
    table = image_to_image_table(euler(settings, 20), strength)
    assert_same_path(table, walked_by_euler(settings, z, 20, begin_at=begin_at), z)


def test_late_steps_keep_their_noise():
    whole = ddpm(NoiseScheduleConfig(), 4)
    path = path_of(whole, NOISE)
    late = path_of(image_to_image_table(whole, 0.5), path[1])
    np.testing.assert_allclose(late, path[2:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.01, 1.1])
def test_impossible_strengths_are_named(strength):
    with pytest.raises(UserError, match=f"strength={strength}"):
        image_to_image_table(ddim(NoiseScheduleConfig(), 5), strength)


def test_one_scan_one_question_one_compile():
    asked = []

    def counted(z, time, told):
        asked.append(z.shape)
        return network(z, time, told)

    def run(table, z, keys):
        return run_sampler(counted, z, None, table=table, keys=keys)

    compiled = jax.jit(run)
    for sampler in (ddim, euler, dpm_solver, uni_pc):
        table = sampler(NoiseScheduleConfig(), 7)
        got = compiled(table, NOISE, KEYS)
        np.testing.assert_allclose(got, path_of(table, NOISE)[-1], rtol=1e-5, atol=1e-6)
    assert len(asked) == 1
    compiled(ddpm(NoiseScheduleConfig(), 7), NOISE, KEYS)
    assert len(asked) == 2
    program = str(jax.make_jaxpr(run)(ddpm(NoiseScheduleConfig(), 7), NOISE, KEYS))
    assert program.count("scan[") == 1
    assert "length=7" in program
    assert program.count("sin ") == 1


def test_every_sampler_finds_the_only_clip_there_is():
    """A network that knows the answer brings any noise to it."""
    answer, settings = (
        jnp.linspace(-1, 1, 24).reshape(SHAPE),
        NoiseScheduleConfig(prediction_type=Prediction.X0),
    )
    late = image_to_image_table(uni_pc(settings, 12), 0.5)
    samplers = (ddpm, euler, dpm_solver, uni_pc, consistency)
    for table in (*(sampler(settings, 6) for sampler in samplers), late):
        got = run_sampler(lambda z, time, told: answer, NOISE, None, table=table, keys=KEYS)
        np.testing.assert_allclose(got, answer, atol=1e-6)


def test_latents_keep_their_type_and_are_carried_in_float32():
    table, seen = ddim(NoiseScheduleConfig(), 20), []

    def half(z, time, told):
        seen.append((z.dtype, time.dtype))
        return network(z, time.astype(z.dtype), told)

    z = NOISE.astype(jnp.bfloat16)
    assert run_sampler(half, z, None, table=table).dtype == jnp.bfloat16
    assert initial_latents(table, z).dtype == initial_latents(table, z, z).dtype == jnp.bfloat16
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32))}


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        run_sampler(
            lambda z, time, told: z,
            NOISE.astype(jnp.bfloat16),
            None,
            table=ddpm(NoiseScheduleConfig(), 3),
            keys=KEYS,
        )


def test_noise_needs_a_key_and_its_absence_does_not():
    with pytest.raises(UserError, match="keys: this sampler adds noise"):
        run_sampler(network, NOISE, None, table=ddpm(NoiseScheduleConfig(), 3))
    assert not ddim(NoiseScheduleConfig(), 3).is_stochastic
    run_sampler(network, NOISE, None, table=ddim(NoiseScheduleConfig(), 3))
    with pytest.raises(UserError, match="eta=2"):
        ddim(NoiseScheduleConfig(), 3, eta=2.0)


def test_the_first_step_starts_at_the_noise_its_row_names():
    table = dpm_solver(NoiseScheduleConfig(), 1)
    time = jnp.asarray(table.steps.time)[:1].repeat(SHAPE[0])
    level = {"alpha": jnp.asarray(table.steps.alpha[0]), "sigma": jnp.asarray(table.steps.sigma[0])}
    x0 = to_x0(Prediction.EPS, network(NOISE, time, None), NOISE, **level)
    np.testing.assert_allclose(run_sampler(network, NOISE, None, table=table), x0, rtol=1e-5)
