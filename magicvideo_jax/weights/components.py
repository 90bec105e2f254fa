"""The networks of Stable Diffusion, each with all that reading and writing it needs to know, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.autoencoder import autoencoder
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.clip_text import CLIPTextEncoder, TextConfig
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, VideoUNet
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights import config_json as settings
from magicvideo_jax.weights import tables
from magicvideo_jax.weights.match import match_paths
from magicvideo_jax.weights.streaming import Fresh, Tick, draw_missing, sharding_by_path, silent
from magicvideo_jax.weights.tables import Table

NetworkConfig = TypeVar("NetworkConfig")


@dataclass(frozen=True)
class ComponentSpec(Generic[NetworkConfig]):
    """What sets a network apart from the others in a pipeline's folder."""

    folder: str
    library: tuple[str, str]
    """The class that loads it on the PyTorch side, as `model_index.json` says it."""
    table: Table
    stem: str
    older: str
    """Weight files begin with the stem; pickles of old with the other."""
    read: Callable[..., NetworkConfig]
    write: Callable[[NetworkConfig], dict[str, Any]]
    network: Callable[[NetworkConfig], Network]
    """Kept once built, as that takes a second."""
    temporal: Any = None
    """The dataclass of what makes a video network of it, if anything does."""
    aliases: tuple[tuple[str, str], ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def temporal_folder(self) -> str:
        """Of what a video network adds, in both kinds of folders: PyTorch's classes do not look there."""
        return f"{self.folder}_temporal"


UNET = ComponentSpec[UNetConfig](
    folder="unet",
    library=("diffusers", "UNet2DConditionModel"),
    table=tables.UNET,
    stem="diffusion_pytorch_model",
    older="diffusion_pytorch_model",
    read=settings.unet_config,
    write=settings.unet_json,
    network=cache(lambda config: bind(lambda keys: VideoUNet(config, keys=keys))),
    temporal=TemporalConfig,
)
VAE = ComponentSpec[VAEConfig](
    folder="vae",
    library=("diffusers", "AutoencoderKL"),
    table=tables.VAE,
    stem="diffusion_pytorch_model",
    older="diffusion_pytorch_model",
    read=settings.vae_config,
    write=settings.vae_json,
    network=cache(lambda config: bind(lambda keys: autoencoder(config, keys=keys))),
    temporal=TemporalDecoderConfig,
    aliases=tables.VAE_ALIASES,
)
TEXT = ComponentSpec[TextConfig](
    folder="text_encoder",
    library=("transformers", "CLIPTextModel"),
    table=tables.TEXT,
    stem="model",
    older="pytorch_model",
    read=settings.text_config,
    write=settings.text_json,
    network=cache(lambda config: bind(lambda keys: CLIPTextEncoder(config, keys=keys))),
    aliases=tables.TEXT_ALIASES,
    extras=tables.TEXT_EXTRAS,
)


@runtime_checkable
class LoadParams(Protocol):
    """Parameters for a network of these shapes, streamed onto the devices that `shardings` say.

    `shardings`: one, or a tree like `shapes`; none: the default device. `may_be_missing` names what the source need
    not have, by parts of paths (`VIDEO_PARTS` for a video network); that comes from `fresh`, which draws all
    parameters (`lambda: network.init(key)`) and of which only what is missing is computed. `UserError` names
    everything that does not fit.
    """

    def __call__(
        self,
        shapes: Params,
        *,
        shardings: Any = None,
        may_be_missing: tuple[str, ...] = (),
        fresh: Fresh | None = None,
        tick: Tick = silent,
    ) -> Params: ...


@dataclass(frozen=True)
class ComponentWeights(Generic[NetworkConfig]):
    """A network in a source: its configuration is read, its parameters wait."""

    kind: ComponentSpec[NetworkConfig]
    config: NetworkConfig
    json: Mapping[str, Any]
    """config.json as it was found, to be written again as it was."""
    load: LoadParams

    def network(self) -> Network:
        """The network that fits the configuration, without its parameters."""
        return self.kind.network(self.config)

    def with_params(
        self, params: Params, config: NetworkConfig | None = None
    ) -> "ComponentWeights[NetworkConfig]":
        """The same network with these parameters (trained ones, say), to be written; a configuration if it changed."""
        same = config is None or self.kind.write(config) == self.kind.write(self.config)
        return replace(
            self,
            config=self.config if config is None else config,
            json=self.json if same or config is None else self.kind.write(config),
            load=_given(params, self.kind.folder),
        )


def component_weights(
    kind: ComponentSpec[NetworkConfig], config: NetworkConfig, params: Params
) -> ComponentWeights[NetworkConfig]:
    """A network that was made here, ready to be written."""
    return ComponentWeights(kind, config, kind.write(config), _given(params, kind.folder))


@dataclass(frozen=True)
class StableDiffusion:
    """A source of weights, opened: every configuration is read, no parameter is."""

    unet: ComponentWeights[UNetConfig]
    vae: ComponentWeights[VAEConfig]
    text_encoder: ComponentWeights[TextConfig]
    noise: NoiseScheduleConfig
    noise_json: Mapping[str, Any]
    """scheduler_config.json as it was found."""
    tokenizer: Path | None
    """Folder of the tokenizer's files; single-file checkpoints have none."""
    tokenizer_class: str = "CLIPTokenizer"
    notes: tuple[str, ...] = ()
    """What was assumed because the source does not say it."""

    @property
    def parts(self) -> tuple[ComponentWeights[Any], ...]:
        return self.unet, self.vae, self.text_encoder


def _given(params: Params, where: str) -> LoadParams:
    def load(
        shapes: Params,
        *,
        shardings: Any = None,
        may_be_missing: tuple[str, ...] = (),
        fresh: Fresh | None = None,
        tick: Tick = silent,
    ) -> Params:
        flat, have = flatten(shapes), flatten(params)
        present = match_paths(
            flat,
            {path: x.shape for path, x in have.items()},
            where=where,
            may_be_missing=may_be_missing,
        )
        placed = sharding_by_path(flat, shardings)
        values = {
            path: have[path] if shardings is None else jax.device_put(have[path], placed[path])
            for path in present
        }
        values |= draw_missing([path for path in flat if path not in values], fresh, placed)
        tick(sum(x.nbytes for x in values.values()))
        return unflatten({path: values[path] for path in flat})

    return load
