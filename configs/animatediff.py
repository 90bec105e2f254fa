"""Motion modules of AnimateDiff on Stable Diffusion 1.5, from a file of theirs or from nothing.

python -m magicvideo_jax.train --config=configs/animatediff.py --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.motion_from=v3_sd15_mm.ckpt
python -m magicvideo_jax.train --config=configs/animatediff.py:all --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.motion_from=v3_sd15_mm.ckpt

Without --config.motion_from the modules are those of v3 and begin as identities.
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.temporal import ANIMATEDIFF_V3
from magicvideo_jax.models.unet import Remat
from magicvideo_jax.training.optimizer import Freeze


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = "video", ""
    config.model.unet.temporal = to_plain(ANIMATEDIFF_V3)
    config.model.remat = Remat.FULL.value
    # The recipe of the authors: guoyww/AnimateDiff, configs/training/v1/training.yaml. It has no average of weights.
    config.data.update(frames=16, size=256)
    config.denoising.caption_dropout = 0.1
    config.train.update(steps=20_000, batch_size=8, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-4, warmup=0, weight_decay=1e-2, grad_clip_norm=1.0, ema_decay=0.0)
    config.sample.update(steps=25, guidance=7.5)
    match preset:
        case "":
            config.optim.freeze = Freeze.TEMPORAL.value
        case "all":  # the image network, which knows its task, at a tenth of the rate
            config.optim.update(lr=1e-5, temporal_lr=1e-4)
        case _:
            raise UserError(f"--config=configs/animatediff.py:{preset}: the preset is all, or none")
    return config
