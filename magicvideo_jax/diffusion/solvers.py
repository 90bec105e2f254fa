"""Samplers as coefficient tables: all share one update and differ in its numbers.

    z_next = a z + b x_0 + c x_0' + d x_0'' + s noise                                                        (1)

where x_0 is the network's estimate, and x_0' and x_0'' are those of the two steps before.

A first-order step from (alpha, sigma) to (alpha_n, sigma_n) that adds noise of standard deviation
s is

    z_next = alpha_n x_0 + sqrt(sigma_n^2 - s^2) eps + s noise                (2)  DDIM: Song et al. 2010.02502, eq. 12
    s      = eta (sigma_n / sigma) sqrt(1 - alpha^2 / alpha_n^2)              (3)  its eq. 16

and, with eps = (z - alpha x_0) / sigma, it has a = sqrt(sigma_n^2 - s^2) / sigma, b = alpha_n - a
alpha. eta = 1 is the ancestral step of DDPM (2006.11239, eq. 7, with the smaller variance);
eta = 0 is Euler's step in z / alpha and sigma / alpha (Karras et al. 2206.00364, algorithm 1) and
DPM-Solver++ of first order. The second order, multistep "2M" (Lu et al. 2211.01095, algorithm 2),
extrapolates x_0 in lambda = log(alpha / sigma):

    x_0 + (x_0 - x_0') h / (2 h')  in place of x_0,   h, h': this and the previous step in lambda         (4)

UniPC (Zhao et al. 2302.04867) takes such a step, and once it has the estimate at its end, corrects
the latents there before it goes on. Both are linear in the estimates, so its row is eq. 1 too. A
consistency model's sampler (Luo et al. 2310.04378, algorithm 3) is eq. 2 with all noise new: a = 0.

So samplers differ in eta, in the order, and in the noise levels between which they step. Latents
are variance preserving throughout: Euler's are diffusers' divided by sqrt(1 + sigma^2). Tables are
computed in float64 and stored in float32.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Float64, Int

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.spacing import fractional_sampling_times, sampling_times


class SolverRows(NamedTuple):
    """Coefficients of a sampler, one row per step."""

    number: Int[np.ndarray, "s"]
    """Index that the noise of the step is folded from."""
    time: Float32[np.ndarray, "s"]
    alpha: Float32[np.ndarray, "s"]
    sigma: Float32[np.ndarray, "s"]
    """Noise level at the start of the step."""
    a: Float32[np.ndarray, "s"]
    b: Float32[np.ndarray, "s"]
    c: Float32[np.ndarray, "s"]
    d: Float32[np.ndarray, "s"]
    s: Float32[np.ndarray, "s"]
    """Coefficients of eq. 1."""


@dataclass(frozen=True, eq=False)
class SolverTable:
    """A sampler with a fixed number of steps.

    It is a pytree whose numbers are traced, so that samplers with the same number of steps share
    a program where their metadata agree (`with_noise` makes them agree).
    """

    steps: SolverRows
    kind: Prediction
    is_stochastic: bool
    """Whether steps add noise."""
    clip: float | None
    """Bound to which estimates of z_0 are clipped, or None."""
    start_scale: Any = 1.0
    """Scale (a scalar) of the unit noise that sampling starts from."""
    threshold: float | None = None
    """Quantile of dynamic thresholding of estimates of z_0, or None."""
    keeps_eps: bool = False
    """Whether eps of eq. 2 is that of the estimate before it was clipped."""


jax.tree_util.register_dataclass(
    SolverTable,
    data_fields=["steps", "start_scale"],
    meta_fields=["kind", "is_stochastic", "clip", "threshold", "keeps_eps"],
)


def ddim(settings: NoiseScheduleConfig, steps: int, *, eta: float = 0.0) -> SolverTable:
    """DDIM with `eta` from 0 (deterministic) to 1 (as much noise as DDPM).

    A step ends floor(T / S) earlier, as in diffusers. This is the next time of `LEADING` and
    within one of the next time of `TRAILING`, but not the next time of `LINSPACE`. There, `euler`
    is the consistent choice, or a schedule of which `steps_end_at_next_time`: then this is
    sampling with the respaced betas of OpenAI's improved diffusion (Nichol & Dhariwal 2102.09672,
    section 4). Clipping z_0 changes eps too (diffusers' `use_clipped_model_output`).

    Errors: `UserError` where `eta` is outside [0, 1], or `steps` does not fit the schedule.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta={eta}: give 0 to 1")
    abar, times = schedule_of(settings).alphas_cumprod, sampling_times(settings, steps)
    if settings.steps_end_at_next_time:
        abar_next = _next_levels(abar[times])
    else:
        next_times = times - settings.num_train_timesteps // steps
        last = 1.0 if settings.set_alpha_to_one else abar[0]
        abar_next = np.where(next_times >= 0, abar[next_times], last)
    return _first_order(settings, times, abar[times], abar_next=abar_next, eta=eta)


def ddpm(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """Ancestral sampling (Ho et al. 2006.11239)."""
    times = sampling_times(settings, steps)
    abar = schedule_of(settings).alphas_cumprod[times]
    return _first_order(settings, times, abar, abar_next=_next_levels(abar), eta=1.0)


def lfdm_ddim(settings: NoiseScheduleConfig, steps: int, *, eta: float = 1.0) -> SolverTable:
    """DDIM of LFDM's published code: an estimate is made at the level of its time, and the step is
    taken between the levels one time earlier; clipping the estimate does not change eps.

    Errors: `UserError` where `steps` does not fit the schedule.
    """
    count = settings.num_train_timesteps
    if not 1 <= steps < count:
        raise FieldError(
            f"steps={steps}: give 1 to {count - 1} (the model was trained at {count} times)"
        )
    abar = schedule_of(settings).alphas_cumprod
    before = np.append(1.0, abar[:-1])
    times = _torch_linspace(count, steps + 2)[:-1].astype(np.int64)[::-1]
    here, levels = times[:-1], before[times]
    table = _first_order(settings, here, levels[:-1], abar_next=levels[1:], eta=eta)
    alpha, sigma = np.sqrt(abar[here]), np.sqrt(1 - abar[here])
    a = np.sqrt(np.maximum(1 - levels[1:] - table.steps.s.astype(np.float64) ** 2, 0)) / sigma
    b = np.sqrt(levels[1:]) - a * alpha
    columns = {"alpha": alpha, "sigma": sigma, "a": a, "b": b}
    rows = table.steps._replace(**{name: x.astype(np.float32) for name, x in columns.items()})
    return replace(table, steps=rows, keeps_eps=True)


def _torch_linspace(end: int, number: int) -> Float32[np.ndarray, "n"]:
    """`torch.linspace(0, end, number)` in float32, bit for bit: NumPy's numbers, once rounded down to times, differ
    for one `number` in seven."""
    i = np.arange(number, dtype=np.float32)
    step = np.float32(end) / np.float32(number - 1)
    return np.where(i < number // 2, step * i, np.float32(end) - step * i[::-1])


def euler(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """Euler's method on the probability-flow ODE, with noise levels interpolated between times."""
    times = fractional_sampling_times(settings, steps)
    levels = _positive(settings)
    ratio = np.interp(times, np.arange(len(levels)), np.sqrt((1 - levels) / levels))
    abar = 1 / (1 + ratio**2)
    table = _first_order(settings, times, abar, abar_next=_next_levels(abar), eta=0.0)
    # Like diffusers, only LEADING starts from a corrupted z_0; the others start as if z_0 were 0.
    leading = settings.timestep_spacing is Spacing.LEADING
    return table if leading else replace(table, start_scale=float(table.steps.sigma[0]))


def dpm_solver(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """DPM-Solver++ 2M, midpoint form. The first and the last step are of first order."""
    times = sampling_times(settings, steps, skip_last=True)
    abar = _positive(settings)[times]
    table = _first_order(settings, times, abar, abar_next=_next_levels(abar), eta=0.0)
    h = np.diff(np.log(abar / (1 - abar)) / 2)
    extrapolation = np.zeros(steps)
    extrapolation[1:-1] = h[1:] / (2 * h[:-1])  # eq. 4
    b = table.steps.b * (1 + extrapolation)
    c = -table.steps.b * extrapolation
    return replace(
        table, steps=table.steps._replace(b=b.astype(np.float32), c=c.astype(np.float32))
    )


def uni_pc(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """UniPC of second order with B(h) = e^h - 1 (diffusers' `bh2`), for few steps.

    The predictor's first and last step are of first order. A corrector has the order of the
    predictor whose result it corrects, and one more of accuracy (2302.04867, theorem 3.1).
    """
    times = sampling_times(settings, steps, skip_last=True)
    abar = _positive(settings)[times]
    table = _first_order(settings, times, abar, abar_next=_next_levels(abar), eta=0.0)
    first = table.steps
    alpha, h = np.sqrt(abar), np.diff(np.log(abar / (1 - abar)) / 2)
    order = np.full(steps, 2)
    order[[0, -1]] = 1

    # What eq. 1 adds to a first-order step, as multiples of x_0, x_0' and x_0''.
    added = np.zeros((steps, 3))
    for i in range(steps):
        if i > 0:
            scale = first.a[i] * alpha[i] * -np.expm1(-h[i - 1])
            added[i] += scale * _correction(h[i - 1], h[i - 2] if order[i - 1] == 2 else None)
        if order[i] == 2:
            extrapolation = first.b[i] * h[i] / (2 * h[i - 1])
            added[i] += (extrapolation, -extrapolation, 0)
    b, c, d = added.T.astype(np.float32)
    return replace(table, steps=first._replace(b=first.b + b, c=c, d=d))


def _correction(h: float, previous_h: float | None) -> Float64[np.ndarray, "3"]:
    """What UniPC's corrector adds to a step of length `h` in lambda, over alpha (1 - e^-h).

    Multiples of the estimates x_0 at the step's end, x_0' at its start and x_0'' one step earlier,
    from which the predictor of a second-order step extrapolated.
    """
    at_end = np.array([1.0, -1.0, 0.0])
    if previous_h is None:
        return at_end / 2
    # 2302.04867, eq. 11: the weights r for which the step is exact on polynomials in lambda.
    b = -np.expm1(-h)
    phi_2 = (b / h - 1) / -b
    phi_3 = 2 * ((b / h - 1) / -h - 0.5) / -b
    ratio = -previous_h / h
    rho, rho_at_end = np.linalg.solve([[1, 1], [ratio, 1]], [phi_2, phi_3])
    return (rho - 0.5) / ratio * np.array([0.0, -1.0, 1.0]) + rho_at_end * at_end


CONSISTENCY_TIMES = 50
"""Number of diffusion times at which consistency models are distilled (diffusers'
`original_inference_steps`)."""


def consistency_times(settings: NoiseScheduleConfig, steps: int) -> Int[np.ndarray, "s"]:
    """Times of `steps` steps through a consistency model, at equal distances from the noisiest on.

    Errors: `UserError` for more steps than the model was distilled at.
    """
    count, every = settings.num_train_timesteps, CONSISTENCY_TIMES
    if steps > every or count < every:
        raise UserError(f"steps={steps}: a consistency model has at most {min(every, count)} times")
    times = np.arange(every, 0, -1) * (count // every) - 1
    return times[np.floor(np.linspace(0, every, steps, endpoint=False)).astype(int)]


def consistency(settings: NoiseScheduleConfig, steps: int) -> SolverTable:
    """Sampler of latent consistency models: estimate z_0, add new noise, estimate again.

    Errors: those of `consistency_times`.
    """
    times = consistency_times(settings, steps)
    abar = schedule_of(settings).alphas_cumprod[times]
    abar_next = _next_levels(abar)
    table = _first_order(settings, times, abar, abar_next=abar_next, eta=0.0)
    renewed = table.steps._replace(
        a=np.zeros(steps, np.float32),
        b=np.sqrt(abar_next).astype(np.float32),
        s=np.sqrt(1 - abar_next).astype(np.float32),
    )
    return replace(table, steps=renewed, is_stochastic=True)


def with_noise(table: SolverTable) -> SolverTable:
    """Table marked as stochastic. A deterministic sampler then draws noise and adds none of it."""
    return replace(table, is_stochastic=True)


def image_to_image_table(table: SolverTable, strength: float) -> SolverTable:
    """Last steps of a table, for editing latents.

    `initial_latents` corrupts the latents to edit to the first noise level of the table.

    `strength` in (0, 1] is the fraction of the steps to keep, as in diffusers' image-to-image
    pipelines. A step has the same noise as in the full table.

    Errors: `FieldError` where no step is left.
    """
    count = len(table.steps.time)
    kept = int(count * strength)
    if not (strength <= 1 and kept >= 1):
        raise FieldError(
            f"strength={strength}: give {1 / count:.3g} to 1, to keep at least one of {count} steps"
        )
    rest = SolverRows(*(column[count - kept :].copy() for column in table.steps))
    # The first step has no previous estimate, and the second has one: the missing are as the earliest.
    rest.b[0] += rest.c[0] + rest.d[0]
    rest.c[:1] = rest.d[:1] = 0
    rest.c[1:2] += rest.d[1:2]
    rest.d[1:2] = 0
    return replace(table, steps=rest)


def _first_order(
    settings: NoiseScheduleConfig,
    times: Int[np.ndarray, "s"] | Float64[np.ndarray, "s"],
    abar: Float64[np.ndarray, "s"],
    *,
    abar_next: Float64[np.ndarray, "s"],
    eta: float,
) -> SolverTable:
    """Rows of eq. 1 for first-order steps (eq. 2, 3) from levels `abar` to `abar_next`."""
    if settings.prediction_type is Prediction.EPS and not abar.all():
        raise UserError(
            "prediction_type=EPS with rescale_betas_zero_snr: eps prediction is undefined at zero terminal SNR; "
            "predict V or X0, use LEADING spacing, or sample with euler or dpm_solver"
        )
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    s = eta * np.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
    a = np.sqrt(np.maximum(1 - abar_next - s**2, 0)) / sigma
    none = np.zeros_like(a)
    columns = (times, alpha, sigma, a, np.sqrt(abar_next) - a * alpha, none, none, s)
    return SolverTable(
        steps=SolverRows(np.arange(len(times)), *(column.astype(np.float32) for column in columns)),
        kind=settings.prediction_type,
        is_stochastic=eta > 0,
        clip=settings.clip_sample_range if settings.clip_sample else None,
        threshold=settings.dynamic_threshold,
    )


def _next_levels(abar: Float64[np.ndarray, "s"]) -> Float64[np.ndarray, "s"]:
    """Levels at which steps end: where the next step starts, and clean latents at last."""
    return np.append(abar[1:], 1.0)


def _positive(settings: NoiseScheduleConfig) -> Float64[np.ndarray, "T"]:
    """abar without zeros, so that sigma / alpha is finite. 2^-24 in place of 0 is diffusers'
    choice.
    """
    return np.maximum(
        schedule_of(settings).alphas_cumprod, 2.0**-24 if settings.rescale_betas_zero_snr else 0.0
    )
