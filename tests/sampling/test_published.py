"""Published settings follow the temporal layers, and spare image weights that predict something else."""

import pytest

from magicvideo_jax.diffusion.known_schedules import ANIMATEDIFF_NOISE, LAVIE_NOISE
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.temporal import ANIMATEDIFF_V2, LAVIE, TemporalConfig
from magicvideo_jax.sampling.published import noise_of_fresh_layers

SD1 = NoiseScheduleConfig()
V = NoiseScheduleConfig(prediction_type=Prediction.V, rescale_betas_zero_snr=True)


@pytest.mark.parametrize(
    ("temporal", "images", "expected"),
    [
        (ANIMATEDIFF_V2, SD1, ANIMATEDIFF_NOISE),
        (LAVIE, SD1, LAVIE_NOISE),
        (TemporalConfig(), SD1, SD1),
        (ANIMATEDIFF_V2, V, V),
        (LAVIE, V, V),
        (ANIMATEDIFF_V2, None, None),
    ],
)
def test_fresh_layers_are_trained_for_the_schedule_that_will_sample_them(
    temporal: TemporalConfig, images: NoiseScheduleConfig, expected: NoiseScheduleConfig
):
    assert noise_of_fresh_layers(temporal, images) == expected
