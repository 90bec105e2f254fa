"""The networks of Stable Diffusion as data, and opened weights: configurations are read,
parameters wait."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.autoencoder import autoencoder
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.clip_text import CLIPTextEncoder, TextConfig
from magicvideo_jax.models.lone_motion import MotionConfig, motion_network
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, VideoUNet
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights import config_json, motion_json
from magicvideo_jax.weights.param_sources import GivenParams, ParamSource
from magicvideo_jax.weights.streaming import Fresh, Tick, draw_missing, sharding_by_path, silent
from magicvideo_jax.weights.tables.clip_keys import TEXT_ALIASES, TEXT_EXTRAS, TEXT_TABLE
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.motion_keys import POSITIONS
from magicvideo_jax.weights.tables.naming import Aliases, Table
from magicvideo_jax.weights.tables.unet_keys import UNET_TABLE
from magicvideo_jax.weights.tables.vae_keys import VAE_ALIASES, VAE_TABLE

NetworkConfig = TypeVar("NetworkConfig")


@dataclass(frozen=True)
class ComponentSpec(Generic[NetworkConfig]):
    """A network of a pipeline: its files, its key table and its configuration."""

    folder: str
    """Name of the component, and of its folder in a pipeline's folder."""
    words: str
    """Name of the component in messages."""
    library: tuple[str, str]
    """Library and class that load it on the PyTorch side, as `model_index.json` says it."""
    table: Table
    stem: str
    """Name of its weight file, without the ending."""
    older: str
    """The same for pickles."""
    read: Callable[..., NetworkConfig]
    """Read the content of config.json."""
    write: Callable[[NetworkConfig], dict[str, Any]]
    """The inverse of `read`."""
    network: Callable[[NetworkConfig], Network]
    """Cached, because building one takes a second."""
    temporal: Any = None
    """Dataclass of what makes a video network of it, if anything does."""
    aliases: Aliases = ()
    extras: tuple[KnownExtra, ...] = ()

    @property
    def temporal_folder(self) -> str:
        """Folder of the temporal layers, in both kinds of pipeline folders; PyTorch's classes do
        not look there."""
        return f"{self.folder}_temporal"


UNET = ComponentSpec[UNetConfig](
    folder="unet",
    words="U-Net",
    library=("diffusers", "UNet2DConditionModel"),
    table=UNET_TABLE,
    stem="diffusion_pytorch_model",
    older="diffusion_pytorch_model",
    read=motion_json.video_unet_config,
    write=config_json.unet_json,
    network=cache(lambda config: bind(lambda keys: VideoUNet(config, keys=keys))),
    temporal=TemporalConfig,
    extras=(POSITIONS,),
)
MOTION = ComponentSpec[MotionConfig](
    folder="motion_adapter",
    words="motion modules",
    library=("diffusers", motion_json.MOTION_ADAPTER),
    table=UNET_TABLE,
    stem="diffusion_pytorch_model",
    older="diffusion_pytorch_model",
    read=motion_json.adapter_config,
    write=motion_json.adapter_json,
    network=cache(motion_network),
    extras=(POSITIONS,),
)
VAE = ComponentSpec[VAEConfig](
    folder="vae",
    words="VAE",
    library=("diffusers", "AutoencoderKL"),
    table=VAE_TABLE,
    stem="diffusion_pytorch_model",
    older="diffusion_pytorch_model",
    read=config_json.vae_config,
    write=config_json.vae_json,
    network=cache(lambda config: bind(lambda keys: autoencoder(config, keys=keys))),
    temporal=TemporalDecoderConfig,
    aliases=VAE_ALIASES,
)
TEXT = ComponentSpec[TextConfig](
    folder="text_encoder",
    words="text encoder",
    library=("transformers", "CLIPTextModel"),
    table=TEXT_TABLE,
    stem="model",
    older="pytorch_model",
    read=config_json.text_config,
    write=config_json.text_json,
    network=cache(lambda config: bind(lambda keys: CLIPTextEncoder(config, keys=keys))),
    aliases=TEXT_ALIASES,
    extras=TEXT_EXTRAS,
)
PIPELINE_PARTS = (UNET, VAE, TEXT)
"""The networks of a text-to-image pipeline."""


@dataclass(frozen=True)
class ComponentWeights(Generic[NetworkConfig]):
    """One network of opened weights."""

    kind: ComponentSpec[NetworkConfig]
    config: NetworkConfig
    json: Mapping[str, Any]
    """Content of config.json as it was found, written again as it was."""
    source: ParamSource
    lacks: tuple[str, ...] = ()
    """Parts of the network that the source does not have, such as TAESD's `encoder`."""

    def network(self) -> Network:
        """The network of the configuration, without its parameters."""
        return self.kind.network(self.config)

    def shapes(self) -> Params:
        """Shapes of the parameters that the source has."""
        return {name: x for name, x in self.network().shapes.items() if name not in self.lacks}

    def check(self) -> None:
        """Compare keys and shapes with the network; read no parameter. Errors: as for `load`."""
        self.source.match(flatten(self.network().shapes), self.lacks)

    def load(
        self,
        shapes: Params,
        *,
        shardings: Any = None,
        may_be_missing: tuple[str, ...] = (),
        fresh: Fresh | None = None,
        tick: Tick = silent,
    ) -> Params:
        """Read parameters of these shapes, streamed onto their devices.

        `shardings`: one sharding, or a tree like `shapes`; none: the default device.
        `may_be_missing` names what the source need not have, by parts of paths (`VIDEO_PARTS` for
        a video network); such parameters come from `fresh`, which draws all parameters (`lambda:
        network.init(key)`) and of which only these are computed.

        Errors: one `UserError` that names everything that does not fit; another for a tensor that
        is not finite.
        """
        flat = flatten(shapes)
        placed = sharding_by_path(flat, shardings)
        present = {path: flat[path] for path in self.source.match(flat, may_be_missing)}
        filled = {}
        for path, value in self.source.read(present, placed):
            filled[path] = value
            tick(value.nbytes)
        filled |= draw_missing([path for path in flat if path not in filled], fresh, placed)
        return unflatten({path: filled[path] for path in flat})


def component_weights(
    kind: ComponentSpec[NetworkConfig], config: NetworkConfig, params: Params
) -> ComponentWeights[NetworkConfig]:
    """A network whose parameters are in memory, ready to be written."""
    return ComponentWeights(
        kind, config, kind.write(config), GivenParams(params, lambda: params, kind.words)
    )


@dataclass(frozen=True)
class Weights:
    """Opened weights: every configuration is read, no parameter is."""

    parts: dict[str, ComponentWeights[Any]] = field(default_factory=dict)
    """Networks by the name of the component: `unet`, `vae`, `text_encoder`, `motion_adapter`."""
    noise: NoiseScheduleConfig | None = None
    """Noise schedule of the U-Net or of motion modules; None where there are neither."""
    noise_json: Mapping[str, Any] | None = None
    """Content of scheduler_config.json as it was found."""
    sample_json: Mapping[str, Any] | None = None
    """Fields of the `SampleConfig` that the weights are sampled with, where they say one."""
    tokenizer: Path | None = None
    """Folder of the tokenizer's files."""
    tokenizer_class: str = "CLIPTokenizer"
    notes: tuple[str, ...] = ()
    """Assumptions and parts that are left out, a line each."""
    is_ours: bool = False
    """Whether this project wrote the parameters: `convert` then writes PyTorch's form."""
    low_resolution: NoiseScheduleConfig | None = None
    """Noise of the small pictures that an upscaler is given; None for other weights."""
    low_resolution_json: Mapping[str, Any] | None = None
    """Content of its scheduler_config.json as it was found."""
