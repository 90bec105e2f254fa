"""The whole configuration. Only this floor sees it; each part is a dataclass beside the code that reads it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from magicvideo_jax.core.checks import FieldError, at_least, not_empty, positive, refused, share
from magicvideo_jax.core.dataclass_dict import find_unknown, from_plain, optional_numbers, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import check_seed
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.data.drawn.scene import Motion
from magicvideo_jax.data.frame_choice import FrameChoice
from magicvideo_jax.diffusion.known_schedules import LOW_RESOLUTION_NOISE
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.discriminator import DiscriminatorConfig
from magicvideo_jax.models.image_prompt import ImagePromptConfig
from magicvideo_jax.models.lfdm.class_vectors import ClassVectorsConfig
from magicvideo_jax.models.lfdm.flow_unet import FlowUNetConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.parallel.mesh import MeshConfig
from magicvideo_jax.sampling.decoding import DecodeConfig
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.training.consistency import ConsistencyConfig
from magicvideo_jax.training.flow_diffusion_objective import FlowDiffusionConfig
from magicvideo_jax.training.image_prompts import ImagePrompts
from magicvideo_jax.training.latent_flow_objective import LatentFlowLossConfig
from magicvideo_jax.training.loop import TrainConfig
from magicvideo_jax.training.objectives import AutoencodingConfig, DenoisingConfig
from magicvideo_jax.training.optimizer import DISCRIMINATOR, OptimConfig, check_optimizer
from magicvideo_jax.training.super_resolution_objective import SuperResolutionConfig
from magicvideo_jax.training.video_autoencoding import VideoAutoencodingConfig

DRAWN = "shapes"
"""Path of the data source that draws its clips."""


class Component(Enum):
    """A network of the model, by the name of its folder in the diffusers layout."""

    UNET = "unet"
    VAE = "vae"
    TEXT = "text_encoder"
    IMAGE = "image_encoder"
    """CLIP's image encoder and its map to text states, of models that are conditioned on pictures."""
    DISCRIMINATOR = DISCRIMINATOR
    """Helper of a VideoVAE's training; not part of the model."""
    TEACHER = "teacher"
    """U-Net that a student is distilled from; not part of the model."""
    LATENT_FLOW = "latent_flow"
    """Auto-encoder of the flow from a picture to a frame (LFDM)."""
    FLOW_UNET = "flow_unet"
    """U-Net that denoises flow."""
    CLASSES = "class_vectors"
    """Vectors of the classes that condition it."""
    PERCEPTUAL = "perceptual"
    """VGG-19, by whose features frames are compared; not part of the model."""


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
    image_prompt: ImagePromptConfig | None = None
    """CLIP's image encoder, for conditioning on pictures; None: the model has none."""
    noise: NoiseScheduleConfig = field(default_factory=NoiseScheduleConfig)
    low_resolution_noise: NoiseScheduleConfig = LOW_RESOLUTION_NOISE
    """Noise on the small pictures that an upscaler is given."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    latent_flow: LatentFlowConfig | None = None
    """Auto-encoder of latent flow diffusion; None: the model has none."""
    flow_unet: FlowUNetConfig | None = None
    """U-Net of latent flow diffusion."""
    class_vectors: ClassVectorsConfig | None = None
    """Vectors of its classes."""
    trained: tuple[Component, ...] = (Component.UNET,)
    reinitialize: tuple[Component, ...] = ()
    """Networks that begin from nothing although `init_from` has weights for them: for comparison."""
    compute: Compute = Compute.AUTO
    remat: Remat = Remat.NONE
    text_by_frame: bool = False
    """Whether cross-attention computes each frame by itself, with keys and values repeated for it:
    more blocks of work, for a GPU that a few long queries per clip do not fill. The same numbers."""

    def __post_init__(self) -> None:
        not_empty(self, "trained")
        for name in ("trained", "reinitialize"):
            given = [component.value for component in getattr(self, name)]
            helpers = {
                Component.DISCRIMINATOR.value,
                Component.TEACHER.value,
                Component.IMAGE.value,
                Component.PERCEPTUAL.value,
            }
            if helpers & set(given) or len(set(given)) < len(given):
                raise FieldError(
                    f"{name}={tuple(given)}: give unet, vae, text_encoder, or of latent flow "
                    "latent_flow, flow_unet, class_vectors, each once"
                )


@dataclass(frozen=True)
class SourceConfig:
    """One set of clips or pictures."""

    path: str = DRAWN
    """A folder of `prepare`, any other TFDS data set of ArrayRecord files (here or at gs://), or `shapes`: drawn."""
    split: str = "train"
    weight: float = 1.0
    """How often it is drawn from, relative to the other sources."""

    def __post_init__(self) -> None:
        not_empty(self, "path", "split")
        positive(self, "weight")


@dataclass(frozen=True)
class DataConfig:
    """What is learned from."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    frames: int = 16
    size: int = 64
    """Pixels along h and w."""
    frame_choice: FrameChoice = FrameChoice.PART
    """Frames of longer clips of prepared sets that an example has."""
    uncaptioned_fraction: float = 0.0
    """Share of drawn clips without a caption, which are trained with the empty prompt."""
    late_fraction: float = 0.0
    """Share of drawn clips that begin after the beginning of their motion, where a longer clip goes on. Captions do not
    say so: only for models that are told of frames, which always know the first few of such a clip."""
    frame_rate_ratio: float = 1.0
    """Frame rate of drawn clips over the usual one: 4 for a network that inserts three frames between two."""
    fps: float | None = None
    """Frame rate of all drawn clips, for models that are not conditional on it; None: each has its own."""
    motion_captions: bool = False
    """Whether the caption of a drawn clip is the word of its motion alone, for models of classes."""
    motions: tuple[Motion, ...] = tuple(Motion)
    """Motions that drawn clips show, those held out too."""
    precompute_examples: int = 0
    """Examples that are drawn and encoded before the first step, then used over and over; 0: every one is new."""
    joint_images: bool = False
    """Joint training: every clip is accompanied by an image, which skips all temporal parts."""
    image_sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    """Sets those images are taken from; a set of clips gives single frames."""
    workers: int = 0
    """Processes that make batches; 0: threads of the training process."""

    def __post_init__(self) -> None:
        not_empty(self, "sources", "image_sources", "motions")
        at_least(1, self, "frames", "size")
        at_least(0, self, "precompute_examples", "workers")
        share(self, "uncaptioned_fraction", "late_fraction")
        positive(self, "frame_rate_ratio", "fps")
        for source in (*self.sources, *self.image_sources):
            if self.precompute_examples and source.path != DRAWN:
                advice = f"give 0; only drawn examples are encoded, not {source.path}"
                raise refused(self, "precompute_examples", advice)


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured at the end."""

    clips: int = 64
    """Held-out captions that are sampled and read back."""
    batch_size: int = 8
    """Clips that are sampled at once, previews too; rounded up to a multiple of the devices."""
    metrics: tuple[str, ...] = ()
    """Names of `evaluation/metrics.py`; empty: those of the stage."""
    seed: int = 0
    """Seed of drawn held-out scenes, and of the noise of samples."""

    def __post_init__(self) -> None:
        at_least(1, self, "clips", "batch_size")
        check_seed(self.seed)


@dataclass(frozen=True)
class Experiment:
    """Everything that a run depends on."""

    seed: int = 0
    stage: str = "video"
    """What is trained: a name of `experiment/stages/registry.py`."""
    init_from: str = "embedded"
    """A diffusers folder, a single file, a converted folder or a work folder; such weights' name on the Hugging Face
    Hub, as `owner/name` or `hf://owner/name@revision/path`; `embedded` (text to image) or `embedded_video`; or
    `scratch`."""
    vae_from: str = ""
    """Weights whose VAE takes the place of that of `init_from`: a VideoVAE that was made of it. Empty: none does."""
    unet_from: str = ""
    """Weights whose U-Net, with its noise schedule, takes the place of that of `init_from`: a file of LaVie on Stable
    Diffusion 1.4. Empty: none does."""
    motion_from: str = ""
    """Weights whose motion modules go into the image U-Net of `init_from`, with their noise schedule: a file of
    AnimateDiff or a MotionAdapter. Empty: none; modules of the config then begin as identities."""
    image_encoder_from: str = ""
    """Weights of CLIP whose image encoder `denoising.image_prompts` uses: a folder of transformers, a file of OpenAI or
    OpenCLIP, or a name on the Hugging Face Hub. Empty: that of `init_from`, a run that has one."""
    motion_norm: MotionNorm = MotionNorm.AUTO
    """Frames over which a U-Net with motion modules norms; the same weights give other clips under each."""
    lora: tuple[str, ...] = ()
    """LoRA files added to these weights, each `FILE` or `FILE:SCALE`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    autoencoding: AutoencodingConfig = field(default_factory=AutoencodingConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    super_resolution: SuperResolutionConfig = field(default_factory=SuperResolutionConfig)
    latent_flow: LatentFlowLossConfig = field(default_factory=LatentFlowLossConfig)
    flow_diffusion: FlowDiffusionConfig = field(default_factory=FlowDiffusionConfig)
    video_vae: VideoAutoencodingConfig = field(default_factory=VideoAutoencodingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of clips, for models of classes."""
        return self.flow_diffusion.classes or tuple(motion.value for motion in self.data.motions)

    @property
    def needs_image_encoder(self) -> bool:
        """Whether examples are conditioned on frames in place of captions."""
        return self.denoising.image_prompts is not ImagePrompts.NONE


RENAMED = {
    "data.unlabelled": "data.uncaptioned_fraction",
    "data.with_pictures": "data.joint_images",
    "data.encoded": "data.precompute_examples",
    "data.pictures": "data.image_sources",
    "denoising.drop_caption": "denoising.caption_dropout",
    "evaluate.at_once": "evaluate.batch_size",
    "model.fresh": "model.reinitialize",
    "optim.clip": "optim.grad_clip_norm",
    "optim.ema": "optim.ema_decay",
    "video_vae.difference": "video_vae.frame_difference_weight",
    "video_vae.images": "video_vae.image_weight",
    "video_vae.some_frames": "video_vae.frames_per_clip",
}
"""Old names of fields: run folders that use them are read; a new config that does is refused with the new name."""


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


def read_experiment(config: ConfigDict | dict[str, Any], where: str = "config") -> Experiment:
    """An experiment from plain data: every field typed and in range, none unknown. Errors name the field by its path,
    `where` first."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    if isinstance(plain, dict):
        for path in flatten(plain):
            _refuse_old_name(path, where)
    experiment = from_plain(Experiment, plain, where)
    check_experiment(experiment)
    return experiment


def with_new_names(plain: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version, its fields by the names of today."""
    return unflatten({RENAMED.get(path, path): value for path, value in flatten(plain).items()})


def check_field_exists(path: str) -> None:
    """Errors: `UserError` for a dotted path that leads to no field; it says what the field is called today, or which
    there are."""
    _refuse_old_name(path, "config")
    if error := find_unknown(Experiment, path):
        raise UserError(error)


def _refuse_old_name(path: str, where: str) -> None:
    if path in RENAMED:
        raise UserError(f"{where}.{path}: is now called {where}.{RENAMED[path]}: give that")


def check_experiment(experiment: Experiment) -> None:
    """Check fields against each other; by itself each was checked by its dataclass. Errors: `UserError` with paths."""
    train, data, model = experiment.train, experiment.data, experiment.model
    if data.precompute_examples and (
        data.precompute_examples < train.batch_size or Component.VAE in model.trained
    ):
        raise UserError(
            f"config.data.precompute_examples={data.precompute_examples}: give 0, or at least "
            f"train.batch_size={train.batch_size}, and leave the VAE out of model.trained"
        )
    check_optimizer(experiment.optim, train.steps)
    if experiment.image_encoder_from and not experiment.needs_image_encoder:
        raise UserError(
            f"config.image_encoder_from={experiment.image_encoder_from}: no example is conditioned on "
            "a frame: set config.denoising.image_prompts to all or uncaptioned, or leave it out"
        )
    temporal = model.unet.temporal
    if temporal is None or temporal.motion is None:
        for name, value in (
            ("motion_from", experiment.motion_from),
            ("motion_norm", experiment.motion_norm.value),
        ):
            if value not in ("", MotionNorm.AUTO.value):
                raise UserError(
                    f"config.{name}={value}: config.model.unet.temporal has no motion modules: train "
                    "with configs/animatediff.py, or leave it out"
                )
    if data.size % model.vae.factor:
        raise UserError(
            f"config.data.size={data.size}: give a multiple of {model.vae.factor}, the VAE's factor"
        )


def check_networks(model: ModelConfig, *, given: int = 0) -> None:
    """Check the networks of a text-to-video model against each other; its U-Net reads so many `given` channels beside
    the latents. Errors: `UserError` with paths."""
    unet, vae, text = model.unet, model.vae, model.text
    if vae.channels != 3:
        raise UserError(f"config.model.vae.channels={vae.channels}: give 3, frames are RGB")
    beside = f" + {given}" if given else ""
    for name, value, of, there in (
        (
            "channels_in",
            unet.channels_in,
            f"vae.latent_channels{beside}",
            vae.latent_channels + given,
        ),
        ("channels_out", unet.channels_out, "vae.latent_channels", vae.latent_channels),
        ("context", unet.context, "text.width", text.width),
    ):
        if value != there:
            raise UserError(
                f"config.model.unet.{name}={value}: give {there}, as config.model.{of} is"
            )
