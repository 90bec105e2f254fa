"""Super-resolution x4 in pixel space, learned from crops of single images.

python -m magicvideo_jax.train --config=configs/super_resolution.py --workdir=DIR      drawn clips, 64 -> 256: minutes
python -m magicvideo_jax.train --config=configs/super_resolution.py --workdir=DIR \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)"
python -m magicvideo_jax.train --config=configs/super_resolution.py:sd_x4 --workdir=DIR --config.init_from=X4_UPSCALER \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)"                      Stable Diffusion's, 256 -> 1024
python -m magicvideo_jax.sample --prompt="a red circle moving left" --upscale=DIR --out=clip.mp4
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.clip_text import VIT_H_PENULTIMATE
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.unet import SD_X4
from magicvideo_jax.models.vae import VAEKind
from magicvideo_jax.sampling.frame_noise import FrameNoise


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage = "super_resolution"
    match preset:
        case "":
            minutes(config)
        case "sd_x4":
            stable_diffusion(config)
        case _:
            raise UserError(
                f"--config=configs/super_resolution.py:{preset}: the preset is sd_x4, or none"
            )
    return config


def minutes(config):
    """What two CPU cores learn in minutes."""
    config.init_from = "scratch"
    # The 4 x 4 pixels of a square are the channels of a latent: 64 x 64 latents for 256 x 256 pixels. What a bicubic
    # picture lacks is small: scaled, its spread is about one.
    config.model.vae.update(kind=VAEKind.PIXELS.value, latent_channels=48, scaling=16.0)
    # Convolutions alone, so that what is learned from crops holds for frames of any size. Without attention no text
    # is read: the text encoder is the smallest there is, and stays as it begins.
    config.model.unet.update(
        levels=({"width": 32, "heads": 0}, {"width": 64, "heads": 0}),
        middle_heads=0,
        blocks=1,
        channels_in=51,
        channels_out=48,
        context=8,
        groups=8,
        noise_levels=101,
    )
    config.model.text.update(width=8, layers=1, heads=1, hidden=8, tokens=24)
    config.model.noise.update(
        prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    config.super_resolution.update(crop=64, most_noise=100)
    config.data.update(size=256, frames=8)
    config.train.update(steps=2000, batch_size=16, save_every=500, preview_every=500)
    config.optim.update(kernels="muon", lr=2e-3, warmup=50, decay=True, b2=0.99, ema_decay=0.998)
    config.sample.update(
        steps=4, guidance=1.0, frame_noise=FrameNoise.SHARED.value, picture_noise=0
    )
    config.sample.tiles.update(side=64, overlap=16)
    config.evaluate.update(clips=8, batch_size=1)


def stable_diffusion(config):
    """Stable Diffusion's x4 upscaler, on one part of a clip of 1024 x 1024."""
    config.init_from = ""
    config.model.unet = to_plain(SD_X4)
    config.model.vae.update(widths=(128, 256, 512), scaling=0.08333)
    config.model.text = to_plain(VIT_H_PENULTIMATE)
    config.model.noise.update(beta_start=0.0001, beta_end=0.02, prediction_type="v_prediction")
    config.model.remat = Remat.FULL.value
    config.super_resolution.update(crop=512, most_noise=350)
    config.data.update(size=1024, frames=8)
    config.train.update(steps=50_000, batch_size=64, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-5, warmup=1000, ema_decay=0.9999)
    config.sample.update(
        steps=50, guidance=5.0, frame_noise=FrameNoise.SHARED.value, picture_noise=20
    )
    # Tiles of what the network was trained on; the decoder's attention is over 64 x 64 latents at most.
    config.sample.tiles.update(side=128, overlap=16)
    config.decode.update(frames=8, tile=64)
    config.evaluate.update(clips=8, batch_size=1)
