"""Text to image with a tiny Stable Diffusion; the VAE comes from a run of configs/vae.py.

python -m magicvideo_jax.train --config=configs/t2i.py --workdir=DIR --config.init_from=VAE_DIR          drawn
python -m magicvideo_jax.train --config=configs/t2i.py:emoji --workdir=DIR --config.init_from=VAE_DIR    examples
python -m magicvideo_jax.train --config=configs/t2i.py:emoji_all --workdir=DIR --config.init_from=VAE_DIR   on a GPU
"""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment, config_dict


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    config.stage, config.init_from = "image", "scratch"
    config.model.trained = (Component.UNET.value, Component.TEXT.value)
    config.model.unet.update(
        levels=({"width": 48, "heads": 2}, {"width": 96, "heads": 4}),
        middle_heads=4,
        blocks=1,
        channels_in=8,
        channels_out=8,
        context=64,
        groups=8,
    )
    config.model.text.update(width=64, layers=2, heads=2, hidden=256, tokens=24)
    # Pure noise at the last time (Lin et al. 2305.08891): with less, sixteen frames together still show what a clip
    # holds, and a network learns to look at them instead of at the caption.
    config.model.noise.update(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    config.data.precompute_examples = 40_000
    config.train.update(
        steps=14_000, batch_size=32, save_every=2000, preview_every=2000, log_every=50
    )
    config.optim.update(lr=1.5e-3, warmup=200, decay=True, ema_decay=0.998)
    config.sample.update(steps=20, guidance=3.0)
    match preset:
        case "":
            pass
        case "emoji" | "emoji_all":
            config.model.unet.update(channels_in=16, channels_out=16)  # the latents of vae.py:emoji
            # Still ones, and single frames of those that move.
            config.data.update(
                sources=({"path": "emoji/sprites_set"}, {"path": "emoji/clips_set"}),
                precompute_examples=0,
            )
            config.train.update(steps=1500, save_every=500, preview_every=500)
            config.optim.update(kernels="muon", lr=2e-3, warmup=50)
            if preset == "emoji_all":
                for_accelerators(config)
        case _:
            raise UserError(
                f"--config=configs/t2i.py:{preset}: the presets are emoji and emoji_all, or none"
            )
    return config


def for_accelerators(config):
    """A network twenty times as large (55 M parameters), for all 734 animations; not timed on a GPU yet."""
    config.model.unet.update(
        levels=({"width": 192, "heads": 6}, {"width": 384, "heads": 12}),
        middle_heads=12,
        blocks=2,
        context=256,
        groups=32,
    )
    config.model.text.update(width=256, layers=4, heads=4, hidden=1024)
    config.train.update(batch_size=256, steps=2500, save_every=2500, preview_every=2500)
    config.optim.update(kernels="muon", lr=1e-3)
