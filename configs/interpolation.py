"""Frame interpolation: three frames between two keyframes, by a text-to-video model that is told both.

python -m magicvideo_jax.train --config=configs/interpolation.py --workdir=DIR        from the embedded video model
python -m magicvideo_jax.train --config=configs/interpolation.py --workdir=DIR --config.init_from=RUN
python -m magicvideo_jax.train --config=configs/interpolation.py:sd15 --workdir=DIR --config.init_from=RUN \
  --config.data.sources="({'path': SET},)"       the paper's model, from a run of configs/t2v.py:sd15
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig, TemporalMask


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage = "interpolation"
    config.denoising.known_frames.first_and_last = 1.0
    match preset:
        case "":
            minutes(config)
        case "sd15":
            stable_diffusion(config)
        case _:
            raise UserError(
                f"--config=configs/interpolation.py:{preset}: the preset is sd15, or none"
            )
    return config


def minutes(config):
    """What two CPU cores learn in minutes."""
    config.init_from = "embedded_video"
    # The embedded model's layers, and one that reads known frames; see configs/t2v.py.
    config.model.unet.temporal = to_plain(
        TemporalConfig(
            frames=16, mask=TemporalMask.NONE, position=PositionEncoding.ROPE, known_frames=True
        )
    )
    config.data.update(frames=5, frame_rate_ratio=4.0, precompute_examples=8192)
    config.train.update(steps=2000, batch_size=8, save_every=1000, preview_every=500)
    config.optim.update(
        kernels="muon", lr=1e-3, temporal_lr=5e-3, warmup=30, decay=True, b2=0.99, ema_decay=0.99
    )
    config.sample.update(steps=10, guidance=1.0)


def stable_diffusion(config):
    """The size of the paper's. Frames between two known ones attend to both, so attention is not directed."""
    config.init_from = ""
    config.model.unet.temporal = to_plain(
        TemporalConfig(frames=16, mask=TemporalMask.NONE, known_frames=True)
    )
    config.model.remat = Remat.FULL.value
    config.data.update(frames=5, size=256)
    config.train.update(steps=50_000, batch_size=64, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-5, warmup=1000, ema_decay=0.9999)
    config.sample.update(steps=50, guidance=7.5)
    config.evaluate.batch_size = 15  # all pairs of 16 keyframes at once
