"""Super-resolution x4 in pixel space, learned from crops of single images.

python -m magicvideo_jax.train --config=configs/super_resolution.py --workdir=DIR      drawn clips, 64 -> 256: minutes
python -m magicvideo_jax.train --config=configs/super_resolution.py --workdir=DIR \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)"
python -m magicvideo_jax.sample --prompt="a red circle moving left" --upscale=DIR --out=clip.mp4
"""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.vae import VAEKind
from magicvideo_jax.sampling.frame_noise import FrameNoise


def get_config(preset: str = ""):
    if preset:
        raise UserError(f"--config=configs/super_resolution.py:{preset}: there are no presets")
    config = config_dict(Experiment())
    config.stage, config.init_from = "super_resolution", "scratch"
    # The 4 x 4 pixels of a square are the channels of a latent: 64 x 64 latents for 256 x 256 pixels.
    config.model.vae.update(kind=VAEKind.PIXELS.value, latent_channels=48, scaling=1.0)
    # Convolutions alone, so that what is learned from crops holds for frames of any size. Without attention no text
    # is read: the text encoder is the smallest there is, and stays as it begins.
    config.model.unet.update(
        levels=({"width": 64, "heads": 0}, {"width": 128, "heads": 0}),
        middle_heads=0,
        blocks=1,
        channels_in=51,
        channels_out=48,
        context=8,
        groups=8,
        noise_levels=101,
        adds_enlarged=True,
    )
    config.model.text.update(width=8, layers=1, heads=1, hidden=8, tokens=24)
    # The large picture itself is predicted, as the difference from a bicubic one.
    config.model.noise.update(
        prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    config.super_resolution.update(crop=64, most_noise=100)
    config.data.update(size=256, frames=8)
    config.train.update(steps=2000, batch_size=16, save_every=500, preview_every=500)
    config.optim.update(kernels="muon", lr=2e-3, warmup=50, decay=True, b2=0.99, ema_decay=0.998)
    config.sample.update(
        steps=8, guidance=1.0, frame_noise=FrameNoise.SHARED.value, picture_noise=0
    )
    config.sample.tiles.update(side=64, overlap=16)
    config.evaluate.update(clips=8, batch_size=1)
    return config
