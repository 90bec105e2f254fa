"""Sampling settings of published models, as their authors sample."""

from magicvideo_jax.models.temporal import LAVIE, TemporalConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

PUBLISHED_SAMPLE: dict[TemporalConfig, SampleConfig] = {
    LAVIE: SampleConfig(Sampler.DDPM, steps=50, guidance=7.5, fps=8.0, size=(320, 512)),
}
"""Settings by the temporal layers of a model (Vchitect/LaVie, base/configs/sample.yaml)."""

INTERPOLATION_SAMPLE = SampleConfig(Sampler.DDIM, steps=50, guidance=4.0)
"""LaVie's frame interpolation (interpolation/sample.py)."""

SUPER_RESOLUTION_SAMPLE = SampleConfig(Sampler.DDIM, steps=50, guidance=5.0)
"""LaVie's super-resolution (vsr/configs/sample.yaml)."""
