"""Text to video in pixel space, as Video Diffusion Models are (Ho et al. 2204.03458): the baseline of latent diffusion.

python -m magicvideo_jax.train --config=configs/vdm.py --workdir=DIR           squares of 4 x 4 pixels as channels
python -m magicvideo_jax.train --config=configs/vdm.py:half --workdir=DIR      of 2 x 2: twice the cost of a clip
python -m magicvideo_jax.train --config=configs/vdm.py:pixels --workdir=DIR    single pixels

The U-Net is that of configs/t2v.py, so that both differ in what is denoised alone; captions, scores and previews are
the same. A clip costs 4.4 times the arithmetic of one of configs/t2v.py, with `half` or `pixels` 9.4 times.
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import BetaSchedule
from magicvideo_jax.experiment.config import Component, Experiment, config_dict
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig, TemporalMask
from magicvideo_jax.models.vae import VAEKind


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = "video", "scratch"
    match preset:
        case "" | "minutes":
            network(config, side=4, levels=((48, 2), (96, 4)))
        case "half":
            network(config, side=2, levels=((32, 0), (64, 4), (128, 4)))
        case "pixels":
            network(config, side=1, levels=((16, 0), (32, 0), (64, 4), (96, 4)))
        case _:
            raise UserError(
                f"--config=configs/vdm.py:{preset}: the presets are minutes, half and pixels, or none"
            )
    return config


def network(config, *, side, levels):
    """A U-Net on squares of `side` x `side` pixels; each of `levels` has a width and heads of attention."""
    channels = 3 * side**2
    config.model.vae.update(kind=VAEKind.PIXELS.value, latent_channels=channels, scaling=1.0)
    config.model.unet.update(
        levels=tuple({"width": width, "heads": heads} for width, heads in levels),
        middle_heads=4,
        blocks=1,
        channels_in=channels,
        channels_out=channels,
        context=64,
        groups=8,
        temporal=to_plain(
            TemporalConfig(frames=16, mask=TemporalMask.NONE, position=PositionEncoding.ROPE)
        ),
    )
    config.model.text.update(width=64, layers=2, heads=2, hidden=256, tokens=24)
    config.model.trained = (Component.UNET.value, Component.TEXT.value)
    # VDM's schedule, and its estimates of pixels clipped to their range. The clip is predicted, not its noise: that of
    # 48 channels does not pass through a network 48 wide, and stays in the samples.
    config.model.noise.update(
        beta_schedule=BetaSchedule.COSINE.value,
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=True,
    )
    # The rest is that of configs/t2v.py.
    config.data.precompute_examples = 2048
    config.denoising.time_shift = 3.0
    config.train.update(steps=2200, batch_size=4, save_every=1100, preview_every=1100)
    config.optim.update(
        kernels="muon", lr=2e-3, temporal_lr=1e-2, warmup=30, decay=True, b2=0.99, ema_decay=0.99
    )
    config.sample.update(steps=20, guidance=3.0)
