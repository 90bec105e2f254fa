"""Text to video, from text-to-image weights.

python -m magicvideo_jax.train --config=configs/t2v.py --workdir=DIR          the embedded default, minutes on CPU
python -m magicvideo_jax.train --config=configs/t2v.py:long --workdir=DIR     the embedded video weights: an hour
python -m magicvideo_jax.train --config=configs/t2v.py:scratch --workdir=DIR  the ablation: its U-Net from nothing
python -m magicvideo_jax.train --config=configs/t2v.py:latent_shift --workdir=DIR   shifted channels, no new parameters
python -m magicvideo_jax.train --config=configs/t2v.py:few --workdir=DIR --config.data.sources="({'path': SET},)"
                                                                              the embedded video model, on ten clips
python -m magicvideo_jax.train --config=configs/t2v.py:known_frames --workdir=DIR   the same, for clips of pictures
python -m magicvideo_jax.train --config=configs/t2v.py:emoji --workdir=DIR --config.init_from=T2I_DIR    examples
python -m magicvideo_jax.train --config=configs/t2v.py:sd15 --workdir=DIR --config.init_from=SD_WEIGHTS
                                             the paper's model, on many chips; :sd15_h100 and :sd15_v5e are for one chip
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, config_dict
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.temporal import (
    LATENT_SHIFT,
    PositionEncoding,
    TemporalConfig,
    TemporalMask,
)
from magicvideo_jax.training.optimizer import Freeze


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage = "video"
    match preset:
        case "":
            minutes(config)
        case "long":
            minutes(config)
            config.data.precompute_examples = 8192
            config.train.update(steps=13_000, save_every=1000, preview_every=2000)
            config.optim.update(
                kernels="adamw", lr=8e-4, temporal_lr=8e-3, warmup=100, ema_decay=0.999
            )
            config.sample.guidance = 5.0
        case "scratch":
            minutes(config)
            config.model.reinitialize = (Component.UNET.value,)
        case "latent_shift":
            minutes(config)
            config.model.unet.temporal = to_plain(LATENT_SHIFT)
        case "few":
            minutes(config)
            config.init_from = "embedded_video"
            config.data.precompute_examples = 0
            config.train.update(steps=200, save_every=100, preview_every=100)
            config.optim.update(lr=5e-4, temporal_lr=5e-3)
            config.sample.guidance = 5.0
            config.evaluate.update(clips=4, batch_size=1)  # of ten clips, one is held out
        case "known_frames":
            minutes(config)
            config.init_from = "embedded_video"
            config.model.trained = (Component.UNET.value,)
            config.model.unet.temporal.known_frames = True
            config.denoising.known_frames.update(
                first=0.25, beginning=0.2, first_and_last=0.1, every_fourth=0.1
            )
            config.data.update(precompute_examples=8192, late_fraction=0.25)
            config.train.update(steps=5000, save_every=1000, preview_every=1000)
            config.optim.update(lr=1e-3, temporal_lr=5e-3, ema_decay=0.998)
            config.sample.guidance = 5.0
        case "emoji" | "emoji_all":
            minutes(config)
            config.vae_from = ""  # the VAE of --config.init_from knows the pictures
            config.data.update(sources=({"path": "emoji/clips_set"},), precompute_examples=0)
            config.train.update(steps=1500, save_every=500, preview_every=500)
            if preset == "emoji_all":
                config.train.update(batch_size=64, steps=2500, save_every=2500, preview_every=2500)
                config.optim.update(lr=1e-3, temporal_lr=5e-3)
        case "sd15":
            stable_diffusion(config)
        case "sd15_h100":  # one of 80 GB; `plan --topology=h100 --remat=auto` chooses so
            stable_diffusion(config)
            config.model.remat = Remat.NONE.value
            config.train.batch_size = 11
        case "sd15_v5e":  # one chip, which the whole state does not fit; --topology=v5e:1x1
            stable_diffusion(config)
            config.model.remat = Remat.DOTS.value
            config.train.batch_size = 2
            config.optim.freeze = Freeze.TEMPORAL.value
        case _:
            raise UserError(
                f"--config=configs/t2v.py:{preset}: the presets are long, scratch, latent_shift, few, "
                "known_frames, emoji, emoji_all, sd15, sd15_h100 and sd15_v5e, or none"
            )
    return config


def minutes(config):
    """The embedded default: what two CPU cores learn in minutes."""
    config.init_from, config.vae_from = "embedded", "embedded_video_vae"
    # The paper's attention is directed and knows no positions. These were chosen for minutes: docs/results.md.
    config.model.unet.temporal = to_plain(
        TemporalConfig(frames=16, mask=TemporalMask.NONE, position=PositionEncoding.ROPE)
    )
    # CLIP knows words for motion; a text encoder that has only seen stills tells "resting" from "orbiting" by chance.
    config.model.trained = (Component.UNET.value, Component.TEXT.value)
    config.data.precompute_examples = 2048
    config.denoising.time_shift = 3.0
    config.train.update(steps=2200, batch_size=4, save_every=1100, preview_every=1100)
    config.optim.update(
        kernels="muon", lr=2e-3, temporal_lr=1e-2, warmup=30, decay=True, b2=0.99, ema_decay=0.99
    )
    config.sample.update(steps=20, guidance=3.0)


def stable_diffusion(config):
    """The paper's model."""
    config.init_from = ""
    config.model.unet.temporal = to_plain(TemporalConfig(frames=16))
    config.model.remat = Remat.FULL.value
    config.data.update(frames=16, size=256)
    config.train.update(steps=100_000, batch_size=64, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-5, warmup=1000, ema_decay=0.9999)
    config.sample.update(steps=50, guidance=7.5)
