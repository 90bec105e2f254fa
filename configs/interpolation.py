"""Frame interpolation: three frames between two keyframes, by a text-to-video model that is told both.

python -m magicvideo_jax.train --config=configs/interpolation.py --workdir=DIR        from the embedded video model
python -m magicvideo_jax.train --config=configs/interpolation.py --workdir=DIR --config.init_from=RUN
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig, TemporalMask


def get_config(preset: str = ""):
    if preset:
        raise UserError(f"--config=configs/interpolation.py:{preset}: there are no presets")
    config = config_dict(Experiment())
    config.stage, config.init_from = "interpolation", "embedded_video"
    # The embedded model's layers, and one that reads known frames; see configs/t2v.py.
    config.model.unet.temporal = to_plain(
        TemporalConfig(
            frames=16, mask=TemporalMask.NONE, position=PositionEncoding.ROPE, known_frames=True
        )
    )
    config.denoising.known_frames.first_and_last = 1.0
    config.data.update(frames=5, frame_rate_ratio=4.0, precompute_examples=8192)
    config.train.update(steps=2000, batch_size=8, save_every=1000, preview_every=500)
    config.optim.update(
        kernels="muon", lr=1e-3, temporal_lr=5e-3, warmup=30, decay=True, b2=0.99, ema_decay=0.99
    )
    config.sample.update(steps=10, guidance=1.0)
    return config
