"""LFDM's two samplers, written out from their description in torch, give what our tables give."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_weights import relative_error

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.diffusion.sampler import dynamically_clipped, run_sampler
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.solvers import SolverTable, ddpm, lfdm_ddim

KEYS = jax.random.split(jax.random.key(3), 2)
START = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 3)).astype(np.float32)


def denoise(z, time, _):
    """Any function of latents and time; its estimates leave [-1, 1]."""
    return jnp.sin(z) + 0.5 * z + time.reshape(-1, 1, 1, 1, 1) / 1000


def torch_denoise(z: torch.Tensor, t: int) -> torch.Tensor:
    return torch.sin(z) + 0.5 * z + t / 1000


def noise_of(i: int) -> torch.Tensor:
    drawn = [
        jax.random.normal(jax.random.fold_in(subkey(key, "sampler noise"), i), START.shape[1:])
        for key in KEYS
    ]
    return torch.from_numpy(np.array(jnp.stack(drawn)))


def thresholded(x: torch.Tensor) -> torch.Tensor:
    s = torch.quantile(x.flatten(1).abs(), 0.9, dim=1).clamp(min=1).reshape(-1, 1, 1, 1, 1)
    return x.clamp(-s, s) / s


def betas(times: int = 1000) -> torch.Tensor:
    x = torch.linspace(0, times, times + 1, dtype=torch.float64)
    abar = torch.cos((x / times + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(0, 0.9999)


def sampled(table: SolverTable) -> np.ndarray:
    run = jax.jit(lambda z, table: run_sampler(denoise, z, None, table=table, keys=KEYS))
    return np.asarray(run(START, table))


def test_the_schedule_is_theirs():
    abar = torch.cumprod(1 - betas(), 0)
    np.testing.assert_allclose(schedule_of(LFDM_NOISE).alphas_cumprod, abar, rtol=1e-9)
    assert float(abar[-1]) == pytest.approx(2.43e-10, rel=1e-2)


@pytest.mark.parametrize("steps", [10, 37])
def test_ddim_is_theirs(steps: int):
    beta = betas()
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1), abar[:-1]])
    times = torch.linspace(0, 1000, steps + 2)[:-1].int().tolist()[::-1]
    z = torch.from_numpy(START).double()
    for i, (t, after) in enumerate(pairwise(times)):
        e = torch_denoise(z, t)
        x0 = thresholded((z - (1 - abar[t]).sqrt() * e) / abar[t].sqrt())
        a, a_next = before[t], before[after]
        sigma = ((1 - a / a_next) * (1 - a_next) / (1 - a)).sqrt()
        z = a_next.sqrt() * x0 + (1 - a_next - sigma**2).sqrt() * e + sigma * noise_of(i)
    error = relative_error(sampled(lfdm_ddim(LFDM_NOISE, steps)), z.numpy())
    print(f"{steps} steps: {error:.1e}")
    assert error < 1e-5


def test_ddpm_is_theirs():
    """The last 30 of all 1000 steps, each with its threshold."""
    beta, last = betas(), 30
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1), abar[:-1]])
    table = ddpm(LFDM_NOISE, 1000)
    table = replace(table, steps=type(table.steps)(*(x[-last:] for x in table.steps)))
    z = torch.from_numpy(START).double()
    for i, t in enumerate(range(last)[::-1]):
        x0 = thresholded((z - (1 - abar[t]).sqrt() * torch_denoise(z, t)) / abar[t].sqrt())
        c1 = beta[t] * before[t].sqrt() / (1 - abar[t])
        c2 = (1 - before[t]) * (1 - beta[t]).sqrt() / (1 - abar[t])
        variance = beta[t] * (1 - before[t]) / (1 - abar[t])
        z = c1 * x0 + c2 * z
        if t:
            z = z + (0.5 * variance.clamp(min=1e-20).log()).exp() * noise_of(1000 - last + i)
    error = relative_error(sampled(table), z.numpy())
    print(f"{error:.1e}")
    assert error < 1e-5


def test_a_threshold_below_one_does_nothing():
    x = jnp.asarray(START)
    small = 0.9 * x / jnp.abs(x).max()
    np.testing.assert_array_equal(dynamically_clipped(small, 0.9), small)
    np.testing.assert_allclose(
        dynamically_clipped(3 * x, 0.9), thresholded(3 * torch.from_numpy(START)), rtol=1e-5
    )


def test_as_many_steps_as_times_are_refused():
    with pytest.raises(UserError, match="steps=1000: give 1 to 999"):
        lfdm_ddim(LFDM_NOISE, 1000)
