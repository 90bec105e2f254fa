"""Configuration of a noise schedule and its samplers.

Fields and enum values have the names of diffusers' `scheduler_config.json`, so that such a file
maps field by field. The defaults are those of Stable Diffusion 1.x; `known_schedules.py` has those
of other published models.
"""

import enum
from dataclasses import dataclass

from magicvideo_jax.core.checks import at_least, below_one, positive, refused, share
from magicvideo_jax.diffusion.process import Prediction


class BetaSchedule(enum.Enum):
    """Interpolation of beta_t from its first to its last value."""

    LINEAR = "linear"
    SCALED_LINEAR = "scaled_linear"
    COSINE = "squaredcos_cap_v2"


class Spacing(enum.Enum):
    """Selection of sampling times among the training times (Lin et al. 2305.08891, table 2)."""

    LEADING = "leading"
    TRAILING = "trailing"
    LINSPACE = "linspace"


@dataclass(frozen=True)
class NoiseScheduleConfig:
    """Noise schedule of a model, the quantity that its network predicts, and the sampling times."""

    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = BetaSchedule.SCALED_LINEAR
    beta_start: float = 0.00085
    beta_end: float = 0.012
    rescale_betas_zero_snr: bool = False
    prediction_type: Prediction = Prediction.EPS
    timestep_spacing: Spacing = Spacing.LEADING
    steps_offset: int = 1
    """Offset added to the times of `LEADING`."""
    set_alpha_to_one: bool = False
    """Whether DDIM's last step ends at clean latents (abar = 1) or at the noise level of time 0.
    """
    steps_end_at_next_time: bool = False
    """Whether a DDIM step ends at the next sampling time, and the last at clean latents (OpenAI's
    respaced diffusion; not a field of diffusers), or floor(T / S) earlier (diffusers)."""
    clip_sample: bool = False
    """Whether samplers clip their estimate of z_0. Meant for pixels: latents are unbounded."""
    clip_sample_range: float = 1.0
    max_beta: float = 0.999
    """Largest beta of the cosine schedule."""
    dynamic_threshold: float | None = None
    """Quantile of |z_0| over a clip to which samplers clip their estimate, if it is above 1, before they divide it
    by that (Saharia et al. 2205.11487, section 2.3); None: they do not."""

    def __post_init__(self) -> None:
        at_least(1, self, "num_train_timesteps")
        at_least(0, self, "steps_offset")
        positive(self, "clip_sample_range", "beta_start", "max_beta")
        below_one(self, "beta_start", "beta_end", "max_beta")
        share(self, "dynamic_threshold")
        if self.beta_end < self.beta_start:
            raise refused(self, "beta_end", f"give at least beta_start={self.beta_start}")
