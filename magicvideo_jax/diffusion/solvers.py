"""Samplers as tables: every one is the same update with other numbers.

    z_next = a z + b x_0 + c x_0' + d noise       (x_0 the network's estimate now, x_0' the one before)      (1)

A first-order step from (alpha, sigma) to (alpha_n, sigma_n) that adds noise of deviation s is

    z_next = alpha_n x_0 + sqrt(sigma_n^2 - s^2) eps + s noise                (2)  DDIM: Song et al. 2010.02502, eq. 12
    s      = eta (sigma_n / sigma) sqrt(1 - alpha^2 / alpha_n^2)              (3)  its eq. 16

and, with eps = (z - alpha x_0) / sigma, it has a = sqrt(sigma_n^2 - s^2) / sigma, b = alpha_n - a alpha, d = s.
eta = 1 is the ancestral step of DDPM (2006.11239, eq. 7, with the smaller variance); eta = 0 is Euler's step in
z / alpha and sigma / alpha (Karras et al. 2206.00364, algorithm 1) and DPM-Solver++ of first order. The second order,
multistep "2M" (Lu et al. 2211.01095, algorithm 2), extrapolates x_0 in lambda = log(alpha / sigma):

    x_0 + (x_0 - x_0') h / (2 h')  in place of x_0,   h, h' the steps in lambda now and before             (4)

So samplers differ in eta, in the order, and in where their steps start and land. Latents are variance preserving
everywhere: Euler's are diffusers' divided by sqrt(1 + sigma^2). Tables are made in float64 and kept in float32.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Float64, Int

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.spacing import fractional_times, times


class SolverRows(NamedTuple):
    """The table, one row a step."""

    number: Int[np.ndarray, "s"]
    """Names the step's noise."""
    time: Float32[np.ndarray, "s"]
    alpha: Float32[np.ndarray, "s"]
    sigma: Float32[np.ndarray, "s"]
    """Where the step starts."""
    a: Float32[np.ndarray, "s"]
    b: Float32[np.ndarray, "s"]
    c: Float32[np.ndarray, "s"]
    d: Float32[np.ndarray, "s"]
    """Eq. 1."""


@dataclass(frozen=True, eq=False)
class SolverTable:
    """A sampler at a number of steps. As the argument of a jitted function its numbers are traced, so that samplers of
    as many steps share a program if their metadata agree (`with_noise` makes them agree)."""

    steps: SolverRows
    kind: Prediction
    is_stochastic: bool
    """Whether any step adds noise."""
    clip: float | None
    """Estimates of z_0 are clipped to plus and minus this."""
    start_scale: Any = 1.0
    """A scalar: unit noise times this is where the sampler begins."""


jax.tree_util.register_dataclass(
    SolverTable,
    data_fields=["steps", "start_scale"],
    meta_fields=["kind", "is_stochastic", "clip"],
)


def ddim(settings: NoiseScheduleConfig, steps: int, *, eta: float = 0.0) -> SolverTable:
    """DDIM; `eta` from 0 (no noise) to 1 (as much as DDPM).

    A step lands floor(T / S) earlier, as in diffusers: this is the next time of `LEADING`, within one of the next of
    `TRAILING`, but not that of `LINSPACE`, for which `euler` walks the same path consistently. A clipped estimate
    of z_0 changes eps too (diffusers' `use_clipped_model_output`).
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta={eta}: give 0 to 1")
    abar, here = schedule_of(settings).alphas_cumprod, times(settings, steps)
    landing = here - settings.num_train_timesteps // steps
    last = 1.0 if settings.set_alpha_to_one else abar[0]
    return _first_order(
        settings, here, abar[here], abar_next=np.where(landing >= 0, abar[landing], last), eta=eta
    )


def ddpm(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """Ancestral sampling."""
    here = times(settings, steps)
    abar = schedule_of(settings).alphas_cumprod[here]
    return _first_order(settings, here, abar, abar_next=_next_levels(abar), eta=1.0)


def euler(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """Euler's method on the probability flow, with noise levels interpolated between times."""
    here = fractional_times(settings, steps)
    levels = _positive(settings)
    ratio = np.interp(here, np.arange(len(levels)), np.sqrt((1 - levels) / levels))
    abar = 1 / (1 + ratio**2)
    plan = _first_order(settings, here, abar, abar_next=_next_levels(abar), eta=0.0)
    leading = settings.timestep_spacing is Spacing.LEADING  # otherwise it starts as if z_0 were 0
    return plan if leading else replace(plan, start_scale=float(plan.steps.sigma[0]))


def dpm_solver(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """DPM-Solver++ 2M (midpoint); the first step and the last, which lands on clean latents, are of first order."""
    here = times(settings, steps, skip_last=True)
    abar = _positive(settings)[here]
    plan = _first_order(settings, here, abar, abar_next=_next_levels(abar), eta=0.0)
    h = np.diff(np.log(abar / (1 - abar)) / 2)
    extrapolation = np.zeros(steps)
    extrapolation[1:-1] = h[1:] / (2 * h[:-1])  # eq. 4
    table = plan.steps
    b = table.b * (1 + extrapolation)
    c = -table.b * extrapolation
    return replace(plan, steps=table._replace(b=b.astype(np.float32), c=c.astype(np.float32)))


def with_noise(table: SolverTable) -> SolverTable:
    """The same sampler, marked as one that draws noise at every step; a deterministic one adds none of it."""
    return replace(table, is_stochastic=True)


def image_to_image_table(plan: SolverTable, strength: float) -> SolverTable:
    """The last part of a plan, for editing: `begin` it with the latents to edit.

    `strength` in (0, 1] is the share of the steps that is left, as in diffusers' image-to-image pipelines. Steps keep
    the noise they have in the whole plan.
    """
    count = len(plan.steps.time)
    left = int(count * strength)
    if not (strength <= 1 and left >= 1):
        raise UserError(
            f"strength={strength}: give {1 / count:.3g} to 1, so that of {count} steps at least one is left"
        )
    rest = SolverRows(*(column[count - left :].copy() for column in plan.steps))
    rest.b[0] += rest.c[0]  # no estimate lies before the first: eq. 4 with x_0' = x_0
    rest.c[0] = 0
    return replace(plan, steps=rest)


def _first_order(
    settings: NoiseScheduleConfig,
    here: Int[np.ndarray, "s"] | Float64[np.ndarray, "s"],
    abar: Float64[np.ndarray, "s"],
    *,
    abar_next: Float64[np.ndarray, "s"],
    eta: float,
) -> SolverTable:
    """Eq. 2 and 3 as rows of eq. 1."""
    if settings.prediction_type is Prediction.EPS and not abar.all():
        raise UserError(
            "prediction_type=EPS with rescale_betas_zero_snr: nothing can be told from pure noise; predict V or X0, "
            "take LEADING spacing, or sample with euler or dpm_solver"
        )
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    s = eta * np.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
    a = np.sqrt(np.maximum(1 - abar_next - s**2, 0)) / sigma
    columns = (here, alpha, sigma, a, np.sqrt(abar_next) - a * alpha, np.zeros_like(a), s)
    return SolverTable(
        steps=SolverRows(np.arange(len(here)), *(column.astype(np.float32) for column in columns)),
        kind=settings.prediction_type,
        is_stochastic=eta > 0,
        clip=settings.clip_sample_range if settings.clip_sample else None,
    )


def _next_levels(abar: Float64[np.ndarray, "s"]) -> Float64[np.ndarray, "s"]:
    """Each step lands where the next starts, the last on clean latents."""
    return np.append(abar[1:], 1.0)


def _positive(settings: NoiseScheduleConfig) -> Float64[np.ndarray, "T"]:
    """abar, never 0, so that sigma / alpha is finite; 2^-24 is what diffusers puts in place of 0."""
    return np.maximum(
        schedule_of(settings).alphas_cumprod, 2.0**-24 if settings.rescale_betas_zero_snr else 0.0
    )
