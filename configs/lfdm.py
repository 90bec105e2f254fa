"""Latent flow diffusion (LFDM): a picture is animated as a class of motion says. Two runs, one after the other.

python -m magicvideo_jax.train --config=configs/lfdm.py --workdir=FLOW                 drawn clips: the auto-encoder
python -m magicvideo_jax.train --config=configs/lfdm.py:minutes_diffusion --workdir=DIR --config.init_from=FLOW
python -m magicvideo_jax.sample --workdir=DIR --image=picture.png --prompt="circling" --out=clip.mp4

The published models, of 128 x 128 pixels and 40 frames, are mug, mhad and natops, and with _diffusion their second run:

python -m magicvideo_jax.train --config=configs/lfdm.py:mug --workdir=FLOW --config.latent_flow.vgg=vgg19.pth \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)"
python -m magicvideo_jax.train --config=configs/lfdm.py:mug_diffusion --workdir=DIR --config.init_from=FLOW \
  --config.data.sources="({'path': 'CLIPS_OF_PIXELS'},)" --config.flow_diffusion.class_vectors=bert.npz
"""

from typing import NamedTuple

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.scene import Motion
from magicvideo_jax.data.frame_choice import FrameChoice
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.experiment.config import Component, Compute, Experiment, config_dict
from magicvideo_jax.models.lfdm.class_vectors import ClassVectorsConfig
from magicvideo_jax.models.lfdm.flow_unet import FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig

DIFFUSION = "_diffusion"


class Published(NamedTuple):
    """What the published set-ups differ in."""

    flow: LatentFlowConfig
    flow_steps: int
    unet: FlowUNetConfig
    batch: int
    lr: float
    steps: int
    milestones: tuple[int, ...]
    frames: FrameChoice
    classes: tuple[str, ...]


MUG_CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
MHAD_CLASSES = (
    *("right arm swipe to the left", "right arm swipe to the right", "right hand wave"),
    *("two hand front clap", "right arm throw", "cross arms in the chest", "basketball shooting"),
    *("draw x", "draw circle clockwise", "draw circle counter clockwise", "draw triangle"),
    *("right hand bowling", "front boxing", "baseball swing from right", "tennis forehand swing"),
    *("two arms curl", "tennis serve", "two hand push", "knock on door", "hand catch"),
    *("pick up and throw", "jogging", "walking", "sit to stand", "stand to sit"),
    *("forward lunge (left foot forward)", "squat"),
)
NATOPS_CLASSES = (
    *("I Have Command", "All Clear", "Not Clear", "Spread Wings", "Fold Wings", "Lock Wings"),
    *("Up Hook", "Down Hook", "Remove Tiedowns", "Remove Chocks", "Insert Chocks", "Move Ahead"),
    *("Turn Left", "Turn Right", "Next Marshaller", "Slow Down", "Stop", "Nosegear Steering"),
    *("Hot Brakes", "Brakes On", "Brakes Off", "Install Tiedowns", "Fire", "Cut Engine"),
)
NATOPS_UNET = FlowUNetConfig(learned_null=True, upsampling=FlowUpsampling.NEAREST)
PLAIN, PADDED, UNET = LatentFlowConfig(), LatentFlowConfig(padded_regions=True), FlowUNetConfig()
PUBLISHED = {
    "mug": Published(
        PADDED,
        *(46_500, UNET, 5, 2e-4, 111_600, (74_400, 93_000)),
        FrameChoice.VERY_RANDOM,
        MUG_CLASSES,
    ),
    "mhad": Published(
        PLAIN,
        *(43_100, UNET, 6, 2e-4, 86_400, (57_600, 72_000)),
        FrameChoice.RANDOM,
        MHAD_CLASSES,
    ),
    "natops": Published(
        PLAIN,
        *(24_000, NATOPS_UNET, 20, 1e-4, 33_600, (19_200, 24_000)),
        FrameChoice.UNIFORM,
        NATOPS_CLASSES,
    ),
}


def get_config(preset: str = ""):
    config = config_dict(Experiment())
    name = preset.removesuffix(DIFFUSION) or "minutes"
    is_diffusion = preset.endswith(DIFFUSION)
    config.stage = "flow_diffusion" if is_diffusion else "latent_flow"
    config.model.trained = ((Component.FLOW_UNET if is_diffusion else Component.LATENT_FLOW).value,)
    config.init_from = "" if is_diffusion else "scratch"
    config.model.noise = to_plain(LFDM_NOISE)
    config.optim.update(weight_decay=0.0, warmup=0, grad_clip_norm=1e6, ema_decay=0.0)
    if name == "minutes":
        (minutes_diffusion if is_diffusion else minutes)(config)
    elif name in PUBLISHED:
        published(config, PUBLISHED[name], is_diffusion=is_diffusion)
    else:
        names = ", ".join(f"{one}, {one}{DIFFUSION}" for one in ("minutes", *PUBLISHED))
        raise UserError(f"--config=configs/lfdm.py:{preset}: the presets are {names}, or none")
    return config


def drawn(config):
    """Drawn clips of 16 frames at one rate: models of flow are not conditional on it."""
    config.data.update(frames=16, size=64, fps=8.0, motion_captions=True)
    config.model.latent_flow = to_plain(
        LatentFlowConfig(
            regions=5,
            padded_regions=True,
            region_net=HourglassConfig(16, 128, 4),
            background_net=HourglassConfig(8, 64, 5),
            flow_net=HourglassConfig(32, 128, 4),
            width=16,
            max_width=64,
            residuals=3,
        )
    )
    config.evaluate.update(clips=64, batch_size=8)


def minutes(config):
    """What two CPU cores learn in 20 minutes."""
    drawn(config)
    config.latent_flow.update(pixels=10.0, perceptual=0.0, pairs=2)
    config.train.update(steps=4000, batch_size=8, save_every=500, preview_every=1000)
    config.optim.update(
        lr=1e-3, warmup=50, decay=True, b1=0.5, b2=0.99, grad_clip_norm=10.0, ema_decay=0.99
    )


def minutes_diffusion(config):
    """The second run, of 25 minutes. A class and a picture leave little open, and what moves is small beside
    the pixels' own positions: the network predicts the residual of flow itself."""
    drawn(config)
    config.model.flow_unet = to_plain(
        FlowUNetConfig(width=16, multipliers=(1, 2, 4), heads=2, condition=16, feature=64)
    )
    config.model.class_vectors = to_plain(ClassVectorsConfig(len(Motion), 16))
    config.model.noise.update(
        prediction_type="sample",
        dynamic_threshold=None,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    config.flow_diffusion.residual_scale = 4.0
    # Few steps end at much noise, where the network need not copy what it sees.
    config.denoising.time_shift = 2.0
    config.data.precompute_examples = 4096
    config.train.update(steps=2400, batch_size=8, save_every=400, preview_every=800)
    config.optim.update(
        kernels="muon", lr=2e-3, warmup=50, decay=True, b2=0.99, grad_clip_norm=1.0, ema_decay=0.99
    )
    config.sample.update(steps=4, guidance=1.0)


def published(config, one: Published, *, is_diffusion: bool):
    """A published set-up; parameters and flow are float32, as its authors have them."""
    config.model.latent_flow = to_plain(one.flow)
    config.model.compute = Compute.FLOAT32.value
    config.data.update(frames=40, size=128, frame_choice=one.frames.value)
    config.sample.update(sampler="ddpm", steps=1000, guidance=1.0)
    config.evaluate.update(clips=64, batch_size=4)
    config.train.update(save_every=2000, preview_every=5000)
    if is_diffusion:
        config.model.flow_unet = to_plain(one.unet)
        config.model.class_vectors = to_plain(ClassVectorsConfig(len(one.classes), 768))
        config.flow_diffusion.classes = one.classes
        # 64/255 for brightness.
        config.flow_diffusion.jitter.update(
            brightness=0.251, contrast=0.25, saturation=0.25, hue=0.04
        )
        config.train.update(steps=one.steps, batch_size=one.batch)
        config.optim.update(lr=one.lr, milestones=one.milestones, b2=0.99)
    else:
        config.latent_flow.jitter.update(
            brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1, shuffles=True
        )
        steps = one.flow_steps
        config.train.update(steps=steps, batch_size=100)
        config.optim.update(lr=2e-4, b1=0.5, milestones=(steps * 6 // 10, steps * 9 // 10))
