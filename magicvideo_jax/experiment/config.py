"""The whole configuration. Only this floor sees it; each part is a dataclass beside the code that reads it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from magicvideo_jax.core.dataclass_dict import from_plain, optional_numbers, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.discriminator import DiscriminatorConfig
from magicvideo_jax.models.unet import Remat, UNetConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.parallel.mesh import MeshConfig
from magicvideo_jax.sampling.decoding import DecodeConfig
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.training.loop import TrainConfig
from magicvideo_jax.training.objectives import AutoencodingConfig, DenoisingConfig
from magicvideo_jax.training.optimizer import DISCRIMINATOR, OptimConfig, check_optimizer
from magicvideo_jax.training.video_autoencoding import VideoVAEConfig

DRAWN = "shapes"
"""The source that is drawn, by the name to ask for it."""


class Component(Enum):
    """A network of the model, by the name of its folder in the diffusers layout."""

    UNET = "unet"
    VAE = "vae"
    TEXT = "text_encoder"
    DISCRIMINATOR = DISCRIMINATOR
    """Of a VideoVAE's training, and no part of the model."""


class Compute(Enum):
    """What networks compute in; parameters are float32."""

    AUTO = "auto"
    """bfloat16 on accelerators, float32 on CPU."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class ModelConfig:
    """The networks. With `init_from`, what the weights come with replaces all numbers but the temporal ones."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseScheduleConfig = field(default_factory=NoiseScheduleConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    trained: tuple[Component, ...] = (Component.UNET,)
    reinitialize: tuple[Component, ...] = ()
    """Networks that begin from nothing although `init_from` has weights for them: for comparison."""
    compute: Compute = Compute.AUTO
    remat: Remat = Remat.NONE


@dataclass(frozen=True)
class SourceConfig:
    """One set of clips or pictures."""

    path: str = DRAWN
    """A folder of `prepare`, any other TFDS data set of ArrayRecord files (here or at gs://), or `shapes`: drawn."""
    split: str = "train"
    weight: float = 1.0
    """How often it is taken from, next to the others."""


@dataclass(frozen=True)
class DataConfig:
    """What is learned from."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    frames: int = 16
    size: int = 64
    """Pixels along h and w."""
    uncaptioned_fraction: float = 0.0
    """Share of drawn clips without a caption, which are trained with the empty prompt."""
    precompute_examples: int = 0
    """Examples that are drawn and encoded before the first step, then used over and over; 0: every one is new."""
    joint_images: bool = False
    """Joint training: every clip is accompanied by an image, which skips all temporal parts."""
    image_sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    """Sets those images are taken from; a set of clips gives single frames."""
    workers: int = 0
    """Processes that make batches; 0: threads of the training process."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured at the end."""

    clips: int = 64
    """Held-out captions that are sampled and read back."""
    batch_size: int = 8
    """Clips that are sampled at once, previews too; rounded up to a multiple of the devices."""
    metrics: tuple[str, ...] = ()
    """Names of `evaluation/metrics.py`; empty: those of the stage."""


@dataclass(frozen=True)
class Experiment:
    """Everything that a run depends on."""

    seed: int = 0
    stage: str = "video"
    """What is trained: a name of `experiment/stages/registry.py`."""
    init_from: str = "embedded"
    """A diffusers folder, a single file, a converted folder or a work folder; `embedded`; or `scratch`."""
    vae_from: str = ""
    """Weights whose VAE takes the place of that of `init_from`: a VideoVAE that was made of it. Empty: none does."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    autoencoding: AutoencodingConfig = field(default_factory=AutoencodingConfig)
    video_vae: VideoVAEConfig = field(default_factory=VideoVAEConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def config_dict(experiment: Experiment) -> Any:
    """An experiment as the `ConfigDict` that config files change and command lines override."""
    config = ConfigDict(to_plain(experiment), convert_dict=True)
    for path, kind in optional_numbers(Experiment):
        *parents, name = path.split(".")
        part: Any = config
        for parent in parents:
            part = part[parent]
        if part[name] is None:  # ml_collections lets no command line override what has no type
            part[name] = placeholder(kind)
    return config


def read_experiment(config: ConfigDict | dict[str, Any]) -> Experiment:
    """Strict: every field typed, none unknown. Errors name the field."""
    experiment = from_plain(
        Experiment, config.to_dict() if isinstance(config, ConfigDict) else config
    )
    check_experiment(experiment)
    return experiment


def check_experiment(experiment: Experiment) -> None:
    """What fields alone do not say: numbers in range, and those that must fit each other. Errors name the field."""
    train, data, model = experiment.train, experiment.data, experiment.model
    for name, value in (
        ("train.steps", train.steps),
        ("train.accumulate", train.accumulate),
        ("train.save_every", train.save_every),
        ("train.keep_last", train.keep_last),
        ("train.preview_every", train.preview_every),
        ("train.log_every", train.log_every),
        ("data.frames", data.frames),
        ("sample.steps", experiment.sample.steps),
        ("evaluate.clips", experiment.evaluate.clips),
        ("evaluate.batch_size", experiment.evaluate.batch_size),
    ):
        if value < 1:
            raise UserError(f"config.{name}={value}: give at least 1")
    if train.keep_every < 0:
        raise UserError(f"config.train.keep_every={train.keep_every}: give a number of steps, or 0")
    if experiment.denoising.time_shift < 1:
        raise UserError(
            f"config.denoising.time_shift={experiment.denoising.time_shift}: give 1 or more"
        )
    for name, value in (
        ("data.uncaptioned_fraction", data.uncaptioned_fraction),
        ("denoising.caption_dropout", experiment.denoising.caption_dropout),
        ("denoising.image_share", experiment.denoising.image_share),
    ):
        if not 0 <= value <= 1:
            raise UserError(f"config.{name}={value}: give a share from 0 to 1")
    if data.precompute_examples and (
        data.precompute_examples < train.batch_size or Component.VAE in model.trained
    ):
        raise UserError(
            f"config.data.precompute_examples={data.precompute_examples}: give 0, or at least "
            f"train.batch_size={train.batch_size}, and leave the VAE out of model.trained"
        )
    check_optimizer(experiment.optim, train.steps)
    for name in ("sources", "image_sources"):
        _check_sources(f"config.data.{name}", getattr(data, name), encoded=data.precompute_examples)
    if data.size % model.vae.factor:
        raise UserError(
            f"config.data.size={data.size}: give a multiple of {model.vae.factor}, the VAE's factor"
        )


def _check_sources(name: str, sources: tuple[SourceConfig, ...], *, encoded: int) -> None:
    if not sources:
        raise UserError(
            f"{name} is empty: give at least one, like ({{'path': 'DIR'}},), or ({{'path': '{DRAWN}'}},)"
        )
    for source in sources:
        if not source.weight > 0:
            raise UserError(f"{name}: {source.path} has weight={source.weight}: give more than 0")
        if encoded and source.path != DRAWN:
            raise UserError(
                f"config.data.precompute_examples={encoded}: give 0; only drawn examples are encoded, not {source.path}"
            )
