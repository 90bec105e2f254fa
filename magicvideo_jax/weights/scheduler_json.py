"""scheduler_config.json of diffusers <-> our settings of the noise.

The file belongs to one of many sampler classes. What it says about the noise and its times is
read here; which solver it names, and that solver's own fields, is not: samplers are chosen when
sampling.
"""

from collections.abc import Mapping
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.weights.json_fields import Fields

# What most classes of diffusers 0.42.1 take for an absent field. Classes without
# `set_alpha_to_one` land on clean latents; those without `clip_sample` never clip.
_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "steps_end_at_next_time": False,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "variance_type": None,
}
_STABLE_DIFFUSION_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
CLASSES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "DDPMScheduler": {
        "timestep_spacing": "leading",
        "clip_sample": True,
        "variance_type": "fixed_small",
    },
    "PNDMScheduler": {"timestep_spacing": "leading", "set_alpha_to_one": False},
    "LCMScheduler": {
        "timestep_spacing": "leading",
        "beta_schedule": "scaled_linear",
        **_STABLE_DIFFUSION_BETAS,
    },
    "HeunDiscreteScheduler": _STABLE_DIFFUSION_BETAS,
    "KDPM2DiscreteScheduler": _STABLE_DIFFUSION_BETAS,
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
}
_ONLY = {
    "trained_betas": (None,),
    "thresholding": (False,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


def noise_settings(content: Mapping[str, Any], *, where: str) -> NoiseScheduleConfig:
    """Read a scheduler's file, with the defaults of the class that it names."""
    kind = content.get("_class_name")
    if kind not in CLASSES:
        raise UserError(
            f"{where}: field '_class_name' is {kind!r}; supported: {', '.join(CLASSES)}"
        )
    fields = Fields(content, _DEFAULTS | CLASSES[kind], where=where)
    fields.only(_ONLY)
    offset = fields.get("steps_offset")
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise fields.refused("steps_offset", "an integer")
    try:
        return NoiseScheduleConfig(
            num_train_timesteps=fields.integer("num_train_timesteps"),
            beta_schedule=fields.word("beta_schedule", BetaSchedule),
            beta_start=fields.number("beta_start"),
            beta_end=fields.number("beta_end"),
            rescale_betas_zero_snr=fields.switch("rescale_betas_zero_snr"),
            prediction_type=fields.word("prediction_type", Prediction),
            timestep_spacing=fields.word("timestep_spacing", Spacing),
            steps_offset=offset,
            set_alpha_to_one=fields.switch("set_alpha_to_one"),
            steps_end_at_next_time=fields.switch("steps_end_at_next_time"),
            clip_sample=fields.switch("clip_sample"),
            clip_sample_range=fields.number("clip_sample_range"),
        )
    except UserError as error:
        raise error if where in str(error) else UserError(f"{where}: {error}") from error


def noise_json(noise: NoiseScheduleConfig) -> dict[str, Any]:
    """The settings as a DDIMScheduler, the class that has all these fields.

    `steps_end_at_next_time`, which it does not know and warns of, is written where it is set.
    """
    respaced = {"steps_end_at_next_time": True} if noise.steps_end_at_next_time else {}
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": noise.num_train_timesteps,
        "beta_schedule": noise.beta_schedule.value,
        "beta_start": noise.beta_start,
        "beta_end": noise.beta_end,
        "trained_betas": None,
        "rescale_betas_zero_snr": noise.rescale_betas_zero_snr,
        "prediction_type": noise.prediction_type.value,
        "timestep_spacing": noise.timestep_spacing.value,
        "steps_offset": noise.steps_offset,
        "set_alpha_to_one": noise.set_alpha_to_one,
        "clip_sample": noise.clip_sample,
        "clip_sample_range": noise.clip_sample_range,
        **respaced,
    }
