"""A VideoVAE: temporal layers for the decoder of a trained VAE, whose encoder and latents stay.

python -m magicvideo_jax.train --config=configs/video_vae.py --workdir=DIR          of the embedded VAE, on drawn clips
python -m magicvideo_jax.train --config=configs/video_vae.py:sd15 --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)"

Of the losses LPIPS needs a package of its own: pip install --no-deps -r requirements-metrics.txt
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, config_dict
from magicvideo_jax.models.lpips import Backbone
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.training.optimizer import Freeze


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage = "video_vae"
    config.model.trained = (Component.VAE.value,)
    config.model.vae.temporal = to_plain(TemporalDecoderConfig())
    match preset:
        case "":
            config.init_from = "embedded"
            config.model.vae.temporal.places = (0, 1, 2)
            config.optim.freeze = Freeze.DECODER.value
            config.video_vae.update(
                frame_difference_weight=4.0,
                lpips=0.05,
                image_weight=0.5,
                trunk=Backbone.ALEXNET.value,
            )
            config.train.update(steps=4000, batch_size=2, save_every=500, preview_every=1000)
            config.optim.update(
                lr=1e-3,
                temporal_lr=4e-3,
                warmup=50,
                decay=True,
                b2=0.99,
                ema_decay=0.99,
                weight_decay=0.0,
            )
        case "sd15":
            config.init_from, config.optim.freeze = "", Freeze.TEMPORAL.value
            config.data.update(frames=16, size=256)
            config.video_vae.update(adversarial=0.1, adversarial_from=10_000)
            config.train.update(steps=50_000, batch_size=16, save_every=1000, preview_every=1000)
            config.optim.update(lr=1e-4, warmup=500, ema_decay=0.999)
        case _:
            raise UserError(f"--config=configs/video_vae.py:{preset}: the preset is sd15, or none")
    return config
