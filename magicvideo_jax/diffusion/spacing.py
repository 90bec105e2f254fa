"""The few times at which a sampler asks the network, of the T it was trained at; largest first.

    leading    i floor(T / S) + offset,   i = S-1 .. 0                        never reaches T - 1
    trailing   round(T - i T / S) - 1,    i = 0 .. S-1                        never reaches 0
    linspace   from T - 1 to 0 in S equal parts

(Lin et al. 2305.08891, table 2.) Schedulers of diffusers read these in three ways: DDIM and DDPM round linspace;
Euler leaves it fractional; DPM-Solver places one time more and skips the last, where its final step lands.
"""

import numpy as np
from jaxtyping import Float64, Int

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig, Spacing


def sampling_times(
    settings: NoiseScheduleConfig, steps: int, *, skip_last: bool = False
) -> Int[np.ndarray, "s"]:
    """Integer times; with `skip_last`, as DPM-Solver reads the spacing."""
    return np.rint(fractional_sampling_times(settings, steps, skip_last=skip_last)).astype(np.int64)


def fractional_sampling_times(
    settings: NoiseScheduleConfig, steps: int, *, skip_last: bool = False
) -> Float64[np.ndarray, "s"]:
    """Times that `LINSPACE` leaves between integers."""
    total, spacing = settings.num_train_timesteps, settings.timestep_spacing
    one_more = (
        skip_last and spacing is not Spacing.TRAILING
    )  # trailing never reaches the end: nothing to skip
    placed = steps + one_more
    if steps < 1 or placed > total:
        raise UserError(
            f"steps={steps}: give 1 to {total - one_more} (the model was trained at {total} times)"
        )
    match spacing:
        case Spacing.LEADING:
            found = np.arange(placed)[::-1] * float(total // placed) + settings.steps_offset
        case Spacing.TRAILING:
            # Rounding can make arange one longer than asked.
            found = np.rint(np.arange(total, 0, -total / placed)[:placed]) - 1
        case Spacing.LINSPACE:
            found = np.linspace(0, total - 1, placed)[::-1]
    if found[0] > total - 1:
        raise UserError(
            f"steps={steps} with steps_offset={settings.steps_offset} passes the last time {total - 1}: give fewer"
        )
    return found[:steps]
