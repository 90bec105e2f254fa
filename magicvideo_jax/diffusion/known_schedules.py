"""Noise schedules of published models whose checkpoints do not hold one.

Each is that of the authors' code. Where it differs between their samplers, the name says for which
sampler it is. Stable Diffusion 1.x has the defaults of `NoiseScheduleConfig`.
"""

from dataclasses import replace

from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction

LAVIE_NOISE = NoiseScheduleConfig(
    beta_schedule=BetaSchedule.LINEAR, beta_start=0.0001, beta_end=0.02, steps_offset=0
)
"""LaVie's base model (2309.15103; Vchitect/LaVie, base/configs/sample.yaml), with DDPM, the sampler
of the released configuration: 50 steps at times 980, 960 .. 0."""

LAVIE_DDIM_NOISE = replace(LAVIE_NOISE, steps_offset=1)
"""LaVie's base model with DDIM: times 981, 961 .. 1, ending at the noise level of time 0."""

LAVIE_EULER_NOISE = replace(LAVIE_NOISE, timestep_spacing=Spacing.LINSPACE)
"""LaVie's base model with Euler's method: fractional times from 999 to 0."""

LAVIE_INTERPOLATION_NOISE = replace(
    LAVIE_NOISE, timestep_spacing=Spacing.LINSPACE, steps_end_at_next_time=True
)
"""LaVie's frame interpolation with DDIM: OpenAI's respaced diffusion (Vchitect/LaVie,
interpolation/diffusion), 50 steps at times 999, 979, 958 .. 20, 0."""

LAVIE_VSR_NOISE = replace(LAVIE_NOISE, prediction_type=Prediction.V, steps_offset=1)
"""LaVie's super-resolution with DDIM (Vchitect/LaVie, vsr/sample.py): the scheduler of Stable
Diffusion's x4 upscaler with linear betas, 50 steps at times 981, 961 .. 1."""

LOW_RESOLUTION_NOISE = NoiseScheduleConfig(beta_start=0.0001, beta_end=0.02)
"""Noise that LaVie's super-resolution and Stable Diffusion's x4 upscaler add to their
low-resolution input (diffusers' `low_res_scheduler`); only its noise levels are used."""

ANIMATEDIFF_NOISE = NoiseScheduleConfig(beta_schedule=BetaSchedule.LINEAR, set_alpha_to_one=True)
"""AnimateDiff on Stable Diffusion 1.5 with DDIM (2307.04725; guoyww/AnimateDiff,
scripts/animate.py): 25 steps at times 961, 921 .. 1, ending at clean latents."""

ANIMATEDIFF_IN_DIFFUSERS_NOISE = replace(
    ANIMATEDIFF_NOISE, timestep_spacing=Spacing.LINSPACE, set_alpha_to_one=False
)
"""AnimateDiff as the documentation of diffusers samples it: a MotionAdapter with DDIM, whose times
are 999 .. 0 and whose steps end floor(T / S) earlier."""

LFDM_NOISE = NoiseScheduleConfig(
    beta_schedule=BetaSchedule.COSINE,
    steps_offset=0,
    set_alpha_to_one=True,
    max_beta=0.9999,
    dynamic_threshold=0.9,
)
"""LFDM's diffusion of flow (2303.13744), with DDPM at all 1000 times."""
