"""Motion modules of AnimateDiff on Stable Diffusion 1.5, from a file of theirs or from nothing.

python -m magicvideo_jax.train --config=configs/animatediff.py --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.motion_from=v3_sd15_mm.ckpt
python -m magicvideo_jax.train --config=configs/animatediff.py:all --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.motion_from=v3_sd15_mm.ckpt
python -m magicvideo_jax.train --config=configs/animatediff.py:lora --workdir=DIR --config.init_from=SD_WEIGHTS \
  --config.motion_from=mm_sd_v15_v2.ckpt
python -m magicvideo_jax.train --config=configs/animatediff.py:minutes --workdir=DIR

The first trains the motion modules alone, the second the image network too, the third a MotionLoRA, the last small
modules on the embedded weights and drawn shapes. Without --config.motion_from the modules are those of v3 and begin as
identities.
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, config_dict
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.temporal import ANIMATEDIFF_V3, MotionModuleConfig, animatediff
from magicvideo_jax.training.lora import LoRALayers
from magicvideo_jax.training.optimizer import Freeze


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage = "video"
    match preset:
        case "":
            recipe_of_authors(config)
            config.optim.freeze = Freeze.TEMPORAL.value
        case "all":  # the image network, which knows its task, at a tenth of the rate
            recipe_of_authors(config)
            config.optim.update(lr=1e-5, temporal_lr=1e-4)
        case (
            "lora"
        ):  # as large as the published ones, which teach a motion of the camera in few clips
            recipe_of_authors(config)
            config.train.steps = 2000
            config.optim.freeze = Freeze.LORA.value
            config.optim.lora.update(rank=64, layers=LoRALayers.TEMPORAL.value)
        case "minutes":
            minutes(config)
        case _:
            raise UserError(
                f"--config=configs/animatediff.py:{preset}: the presets are all, lora and minutes, or none"
            )
    return config


def recipe_of_authors(config):
    """guoyww/AnimateDiff, configs/training/v1/training.yaml. It has no average of weights."""
    config.init_from = ""
    config.model.unet.temporal = to_plain(ANIMATEDIFF_V3)
    config.model.remat = Remat.FULL.value
    config.data.update(frames=16, size=256)
    config.denoising.caption_dropout = 0.1
    config.train.update(steps=20_000, batch_size=8, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-4, warmup=0, weight_decay=1e-2, grad_clip_norm=1.0, ema_decay=0.0)
    config.sample.update(steps=25, guidance=7.5)


def minutes(config):
    """What two CPU cores learn in minutes. Modules norm as diffusers does, so that they move there too."""
    motion = MotionModuleConfig(heads=4, in_middle=True, norm_over_frames=True)
    config.model.unet.temporal = to_plain(animatediff(frames=16, motion=motion))
    config.model.trained = (Component.UNET.value, Component.TEXT.value)
    config.data.precompute_examples = 2048
    config.denoising.time_shift = 4.0
    config.train.update(steps=2200, batch_size=4, save_every=1100, preview_every=1100)
    config.optim.update(lr=1e-3, temporal_lr=3e-3, warmup=30, decay=True, b2=0.99, ema_decay=0.99)
    config.sample.update(steps=20, guidance=3.0)
