"""Noise schedules: alpha_t and sigma_t at each of the T training times.

    abar_t  = prod_{s <= t} (1 - beta_s)                                      (1)  Ho et al. 2006.11239, eq. 4
    alpha_t = sqrt(abar_t),   sigma_t = sqrt(1 - abar_t)                      (2)

    linear         beta from start to end                                          Ho et al. 2006.11239
    scaled linear  sqrt(beta) from sqrt(start) to sqrt(end)                        Rombach et al. 2112.10752 (code)
    cosine         abar(u) = cos^2(pi/2 (u + 0.008) / 1.008), beta <= cap          Nichol & Dhariwal 2102.09672, eq. 17

Products are computed in float64; in float32 their error reaches 1e-5.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise schedule over times 0 (nearly clean) to T - 1 (nearly noise).

    `alphas_cumprod[t]` is abar_t.
    """

    alphas_cumprod: Float64[np.ndarray, "T"]

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def alpha(self, time: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Signal level alpha_t (eq. 2)."""
        return jnp.asarray(np.sqrt(self.alphas_cumprod), jnp.float32)[time]

    def sigma(self, time: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Noise level sigma_t (eq. 2)."""
        return jnp.asarray(np.sqrt(1 - self.alphas_cumprod), jnp.float32)[time]


def linear(times: int, start: float, end: float) -> Schedule:
    """Schedule whose beta is linear in time."""
    return _from_betas(np.linspace(start, end, times))


def scaled_linear(times: int, start: float, end: float) -> Schedule:
    """Schedule whose sqrt(beta) is linear in time, as in Stable Diffusion."""
    return _from_betas(np.linspace(start**0.5, end**0.5, times) ** 2)


def cosine(times: int, cap: float = 0.999) -> Schedule:
    """Schedule whose abar is a squared cosine. Betas are capped to keep the last below 1."""
    abar = np.cos((np.arange(times + 1) / times + 0.008) / 1.008 * np.pi / 2) ** 2
    return _from_betas(np.minimum(1 - abar[1:] / abar[:-1], cap))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and scale alpha_t so that the last is 0 and the first is unchanged (Lin et al.
    2305.08891, algorithm 1).
    """
    alpha = np.sqrt(schedule.alphas_cumprod)
    return Schedule(((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2)


def schedule_of(settings: NoiseScheduleConfig) -> Schedule:
    """Schedule that a configuration describes."""
    times, start, end = settings.num_train_timesteps, settings.beta_start, settings.beta_end
    match settings.beta_schedule:
        case BetaSchedule.LINEAR:
            schedule = linear(times, start, end)
        case BetaSchedule.SCALED_LINEAR:
            schedule = scaled_linear(times, start, end)
        case BetaSchedule.COSINE:
            schedule = cosine(times, settings.max_beta)
    return zero_terminal_snr(schedule) if settings.rescale_betas_zero_snr else schedule


def _from_betas(betas: Float64[np.ndarray, "T"]) -> Schedule:
    """Cumulative product of 1 - beta (eq. 1)."""
    return Schedule(np.cumprod(1 - betas))
