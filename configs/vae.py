"""The image VAE of the drawn shapes, from nothing, on single frames.

python -m magicvideo_jax.train --config=configs/vae.py --workdir=DIR
"""

from magicvideo_jax.experiment.config import Component, Experiment, Stage, config_dict


def get_config():
    config = config_dict(Experiment())
    config.stage, config.init_from = Stage.VAE.value, "scratch"
    config.model.trained = (Component.VAE.value,)
    config.model.vae.update(widths=(8, 16, 32, 64), blocks=1, groups=2, latent_channels=8)
    config.autoencoding.kl = 1e-4
    config.train.update(steps=2400, batch_size=16, save_every=600, preview_every=300)
    config.optim.update(lr=2e-3, warmup=100, decay=True, ema=0.998, weight_decay=0.0)
    return config
