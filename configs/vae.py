"""An image VAE on single frames.

python -m magicvideo_jax.train --config=configs/vae.py --workdir=DIR          of the drawn shapes, from nothing
python -m magicvideo_jax.train --config=configs/vae.py:emoji --workdir=DIR    of examples/fluent_emoji
"""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, config_dict


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = "vae", "scratch"
    config.model.trained = (Component.VAE.value,)
    config.model.vae.update(widths=(8, 16, 32, 64), blocks=1, groups=2, latent_channels=8)
    config.autoencoding.kl = 1e-4
    config.train.update(steps=2400, batch_size=16, save_every=600, preview_every=300)
    config.optim.update(lr=2e-3, warmup=100, decay=True, ema_decay=0.998, weight_decay=0.0)
    match preset:
        case "":
            pass
        case "emoji":
            config.data.sources = ({"path": "emoji/pixels"},)
            config.model.vae.update(widths=(16, 32, 64, 128), groups=4, latent_channels=16)
            config.train.update(steps=1400, save_every=700, preview_every=700)
            config.optim.update(kernels="muon", lr=4e-3, warmup=50, ema_decay=0.99)
        case _:
            raise UserError(f"--config=configs/vae.py:{preset}: the preset is emoji, or none")
    return config
