"""Sampling settings and schedules of published models, as their authors sample."""

from magicvideo_jax.diffusion.known_schedules import ANIMATEDIFF_NOISE, LAVIE_NOISE
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.temporal import LAVIE, TemporalConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

LAVIE_SAMPLE = SampleConfig(Sampler.DDPM, steps=50, guidance=7.5, fps=8.0, size=(320, 512))
"""LaVie's base model (Vchitect/LaVie, base/configs/sample.yaml)."""

INTERPOLATION_SAMPLE = SampleConfig(Sampler.DDIM, steps=50, guidance=4.0)
"""LaVie's frame interpolation (interpolation/sample.py)."""

SUPER_RESOLUTION_SAMPLE = SampleConfig(Sampler.DDIM, steps=50, guidance=5.0)
"""LaVie's super-resolution (vsr/configs/sample.yaml)."""

ANIMATEDIFF_SAMPLE = SampleConfig(steps=25, guidance=7.5)
"""AnimateDiff (guoyww/AnimateDiff, configs/prompts)."""


def published_sample(temporal: TemporalConfig | None) -> SampleConfig | None:
    """Settings of a published text-to-video model, by its temporal layers; None for other models."""
    if temporal is None:
        return None
    if temporal == LAVIE:
        return LAVIE_SAMPLE
    return None if temporal.motion is None else ANIMATEDIFF_SAMPLE


def noise_of_fresh_layers(
    temporal: TemporalConfig, images: NoiseScheduleConfig | None
) -> NoiseScheduleConfig | None:
    """Schedule to train temporal layers for that begin from nothing in image weights of schedule
    `images`.

    Layers of a published kind go back to programs that join them with Stable Diffusion 1.x and
    sample by the published schedule. Other image weights, which predict v or end in pure noise,
    would have to learn anew: they keep theirs.
    """
    if images is None or images.prediction_type is not Prediction.EPS:
        return images
    if temporal == LAVIE:
        return LAVIE_NOISE
    return images if temporal.motion is None else ANIMATEDIFF_NOISE
