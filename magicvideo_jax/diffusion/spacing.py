"""Sampling times: the S of T training times at which a sampler evaluates the network, in
descending order.

    leading    i floor(T / S) + offset,   i = S-1 .. 0                        never reaches T - 1
    trailing   round(T - i T / S) - 1,    i = 0 .. S-1                        never reaches 0
    linspace   from T - 1 to 0 in S equal parts

(Lin et al. 2305.08891, table 2.) Schedulers of diffusers differ in three ways: DDIM and DDPM round
`linspace`; Euler keeps its fractions; DPM-Solver computes S + 1 times and drops the last, at which
its final step ends.
"""

import numpy as np
from jaxtyping import Float64, Int

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig, Spacing


def sampling_times(
    settings: NoiseScheduleConfig, steps: int, *, skip_last: bool = False
) -> Int[np.ndarray, "s"]:
    """Integer sampling times.

    `skip_last` computes one time more and drops the last, as DPM-Solver does.

    Errors: `UserError` where `steps` does not fit the schedule.
    """
    return np.rint(fractional_sampling_times(settings, steps, skip_last=skip_last)).astype(np.int64)


def fractional_sampling_times(
    settings: NoiseScheduleConfig, steps: int, *, skip_last: bool = False
) -> Float64[np.ndarray, "s"]:
    """Sampling times, which `LINSPACE` leaves between integers.

    Errors: those of `sampling_times`.
    """
    total, spacing = settings.num_train_timesteps, settings.timestep_spacing
    # Trailing spacing never reaches time 0, so there is no last time to drop.
    dropped = skip_last and spacing is not Spacing.TRAILING
    count = steps + dropped
    if steps < 1 or count > total:
        raise FieldError(
            f"steps={steps}: give 1 to {total - dropped} (the model was trained at {total} times)"
        )
    match spacing:
        case Spacing.LEADING:
            times = np.arange(count)[::-1] * float(total // count) + settings.steps_offset
        case Spacing.TRAILING:
            # Rounding can make arange one element too long.
            times = np.rint(np.arange(total, 0, -total / count)[:count]) - 1
        case Spacing.LINSPACE:
            times = np.linspace(0, total - 1, count)[::-1]
    if times[0] > total - 1:
        raise UserError(
            f"steps={steps} with steps_offset={settings.steps_offset} exceeds the last time {total - 1}: "
            "give fewer steps"
        )
    return times[:steps]
