"""An experiment of the real kinds with networks of a few thousand numbers."""

from dataclasses import replace

from magicvideo_jax.experiment.config import (
    Component,
    DataConfig,
    EvaluateConfig,
    Experiment,
    ModelConfig,
)
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.training.loop import TrainConfig
from magicvideo_jax.training.optimizer import OptimConfig

MODEL = ModelConfig(
    unet=UNetConfig(
        levels=(UNetLevelConfig(8, 2), UNetLevelConfig(16, 0)),
        middle_heads=2,
        blocks=1,
        context=8,
        groups=4,
    ),
    vae=VAEConfig(widths=(4, 8), blocks=1, groups=2),
    text=TextConfig(width=8, layers=1, heads=2, hidden=16, tokens=24),
)


def tiny(stage: str = "video", **changes) -> Experiment:
    """Two frames of 16 x 16 pixels; `changes` replace fields."""
    unet = MODEL.unet
    if stage in ("video", "consistency"):
        unet = replace(unet, temporal=TemporalConfig(frames=2))
    if stage == "consistency":
        unet = replace(unet, guidance_channels=8)
    vae = MODEL.vae
    if stage == "super_resolution":
        vae = VAEConfig(kind=VAEKind.PIXELS, latent_channels=48, scaling=1.0)
        unet = replace(unet, channels_in=51, channels_out=48, noise_levels=351)
    trained = (Component.VAE,) if stage == "vae" else (Component.UNET,)
    experiment = Experiment(
        stage=stage,
        init_from="scratch",
        model=replace(MODEL, unet=unet, vae=vae, trained=trained),
        data=DataConfig(frames=2, size=16),
        train=TrainConfig(steps=4, batch_size=8, save_every=2, preview_every=4, log_every=2),
        optim=OptimConfig(warmup=1, lr=1e-3),
        sample=SampleConfig(steps=2),
        evaluate=EvaluateConfig(clips=2, batch_size=2),
    )
    return replace(experiment, **changes)
