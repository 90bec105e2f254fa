"""A student of a video model that samples in four steps, one network evaluation each (latent consistency model).

python -m magicvideo_jax.train --config=configs/lcm.py --workdir=DIR        of the embedded video model
python -m magicvideo_jax.train --config=configs/lcm.py --workdir=DIR --config.init_from=RUN
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig, TemporalMask


def get_config(preset: str = ""):
    if preset:
        raise UserError(f"--config=configs/lcm.py:{preset}: there are no presets")
    config = config_dict(Experiment())
    config.stage, config.init_from = "consistency", "embedded_video"
    config.model.unet.temporal = to_plain(
        TemporalConfig(frames=16, mask=TemporalMask.NONE, position=PositionEncoding.ROPE)
    )
    config.model.unet.guidance_channels = 256
    config.data.precompute_examples = 4096
    config.train.update(steps=2000, batch_size=4, save_every=500, preview_every=500)
    config.optim.update(
        lr=3e-4, temporal_lr=1e-3, warmup=50, decay=True, b2=0.99, ema_decay=0.99, weight_decay=0.0
    )
    config.sample.update(sampler="lcm", steps=4, guidance=5.0)
    return config
