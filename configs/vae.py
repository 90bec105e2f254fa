"""The image VAE of the drawn shapes, from nothing, on single frames.

python -m magicvideo_jax.train --config=configs/vae.py --workdir=DIR
python -m magicvideo_jax.train --config=configs/vae.py:demo --workdir=DIR       a first look, minutes on two cores
"""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, Stage, config_dict


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = Stage.VAE.value, "scratch"
    config.model.trained = [Component.VAE.value]
    config.model.vae.update(widths=[8, 16, 32, 64], blocks=1, groups=4)
    config.autoencoding.kl = 1e-4
    config.train.update(steps=4500, batch_size=16, save_every=500, preview_every=500)
    config.optim.update(lr=2e-3, warmup=200, decay=True, ema=0.998, weight_decay=0.0)
    if preset == "demo":
        config.train.update(steps=500, save_every=250, preview_every=250)
        config.optim.update(warmup=50, ema=0.98)
    elif preset:
        raise UserError(f"--config=configs/vae.py:{preset}: the preset is demo, or none")
    return config
