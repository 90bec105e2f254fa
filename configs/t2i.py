"""The embedded text-to-image model, on single drawn frames; the VAE comes from a run of configs/vae.py.

python -m magicvideo_jax.train --config=configs/t2i.py --workdir=DIR --config.init_from=VAE_DIR
"""

from magicvideo_jax.experiment.config import Component, Experiment, Stage, config_dict


def get_config():
    config = config_dict(Experiment())
    config.stage, config.init_from = Stage.IMAGE.value, "scratch"
    config.model.trained = [Component.UNET.value, Component.TEXT.value]
    config.model.unet.update(
        levels=[{"width": 64, "heads": 2}, {"width": 128, "heads": 4}],
        middle_heads=4,
        blocks=1,
        context=64,
        groups=16,
    )
    config.model.text.update(width=64, layers=2, heads=2, hidden=256, tokens=24)
    config.train.update(steps=12_000, batch_size=64, save_every=2000, preview_every=2000, log_every=100)
    config.optim.update(lr=1e-3, warmup=300, decay=True, ema=0.999)
    config.sample.update(steps=25, guidance=3.0)
    return config
