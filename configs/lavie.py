"""LaVie's base model on Stable Diffusion 1.4, from its checkpoint or from nothing.

python -m magicvideo_jax.train --config=configs/lavie.py --workdir=DIR --config.init_from=SD14 \
  --config.unet_from=lavie_base.pt
python -m magicvideo_jax.train --config=configs/lavie.py:temporal --workdir=DIR --config.init_from=SD14 \
  --config.unet_from=lavie_base.pt

The first trains all of the U-Net, the second what LaVie adds to Stable Diffusion. Without --config.unet_from the
temporal layers begin as nothing, but for the norms, which take their statistics over a clip from the first step on.
"""

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.known_schedules import LAVIE_NOISE
from magicvideo_jax.experiment.config import Experiment, config_dict
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.temporal import LAVIE
from magicvideo_jax.sampling.keyframes import Sampler
from magicvideo_jax.training.optimizer import Freeze


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = "video", ""
    config.model.unet.temporal = to_plain(LAVIE)
    config.model.noise.update(to_plain(LAVIE_NOISE))
    config.model.remat = Remat.FULL.value
    config.data.update(frames=16, size=320)
    config.train.update(steps=20_000, batch_size=8, save_every=1000, preview_every=1000)
    config.optim.update(lr=1e-5, warmup=500, weight_decay=0.0, ema_decay=0.9999)
    # As the authors sample, but for the size: previews have that of the clips that are learned.
    config.sample.update(sampler=Sampler.DDPM.value, steps=50, guidance=7.5)
    match preset:
        case "":
            pass
        case "temporal":
            config.optim.update(freeze=Freeze.TEMPORAL.value, lr=1e-4)
        case _:
            raise UserError(f"--config=configs/lavie.py:{preset}: the preset is temporal, or none")
    return config
