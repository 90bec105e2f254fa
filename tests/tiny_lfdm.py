"""Latent flow diffusion with networks of a few thousand numbers, on drawn clips of 4 frames of 32 x 32."""

from dataclasses import replace

from tiny_experiment import MODEL

from magicvideo_jax.data.drawn.scene import Motion
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.experiment.config import (
    Component,
    DataConfig,
    EvaluateConfig,
    Experiment,
)
from magicvideo_jax.models.lfdm.class_vectors import ClassVectorsConfig
from magicvideo_jax.models.lfdm.flow_unet import FlowUNetConfig
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler
from magicvideo_jax.training.latent_flow_objective import LatentFlowLossConfig
from magicvideo_jax.training.loop import TrainConfig
from magicvideo_jax.training.optimizer import OptimConfig

MOTIONS = (Motion.LEFT, Motion.RIGHT, Motion.GROWING)
FLOW = replace(
    MODEL,
    latent_flow=LatentFlowConfig(
        regions=2,
        padded_regions=True,
        region_net=HourglassConfig(4, 8, 1),
        background_net=HourglassConfig(4, 8, 1),
        flow_net=HourglassConfig(4, 8, 1),
        width=4,
        max_width=8,
        residuals=1,
    ),
    noise=LFDM_NOISE,
    trained=(Component.LATENT_FLOW,),
)
DIFFUSION = replace(
    FLOW,
    flow_unet=FlowUNetConfig(
        width=8, multipliers=(1,), heads=1, head_width=8, groups=4, condition=4, feature=8
    ),
    class_vectors=ClassVectorsConfig(len(MOTIONS), 4),
    trained=(Component.FLOW_UNET,),
)


def tiny_flow(**changes) -> Experiment:
    """The auto-encoder's run; `changes` replace fields."""
    experiment = Experiment(
        stage="latent_flow",
        init_from="scratch",
        model=FLOW,
        data=DataConfig(frames=4, size=32, fps=2.0, motion_captions=True, motions=MOTIONS),
        latent_flow=LatentFlowLossConfig(pixels=10.0),
        train=TrainConfig(steps=2, batch_size=2, save_every=2, preview_every=2, log_every=1),
        optim=OptimConfig(warmup=0, lr=1e-2, ema_decay=0.0, weight_decay=0.0),
        sample=SampleConfig(sampler=Sampler.LFDM, steps=2, guidance=2.0),
        evaluate=EvaluateConfig(clips=2, batch_size=2),
    )
    return replace(experiment, **changes)


def tiny_flow_diffusion(init_from: str, **changes) -> Experiment:
    """The diffusion's run on an auto-encoder."""
    return tiny_flow(
        **{"stage": "flow_diffusion", "init_from": init_from, "model": DIFFUSION} | changes
    )
