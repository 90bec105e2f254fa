"""Where a run's first weights come from: nothing, Stable Diffusion weights, or another run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.experiment.config import Component, ModelConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.models.bind import Network
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.parallel.shardings import on_local_device
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentSpec,
    ComponentWeights,
    StableDiffusion,
    component_weights,
)
from magicvideo_jax.weights.match import may_miss
from magicvideo_jax.weights.open import is_vae_alone, open_source, open_vae
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.tables import VIDEO_PARTS
from magicvideo_jax.weights.taesd_files import HALVES, TAESD, TAESDSource, is_taesd, open_taesd

_PACKAGE = Path(__file__).parent.parent
EMBEDDED = {
    "embedded": _PACKAGE / "embedded" / "image",
    "embedded_video_vae": _PACKAGE / "embedded" / "video_vae",
}
"""Weights that come with the package, by the name to ask for them."""


@dataclass(frozen=True)
class InitialWeights:
    """First weights: a part for each network that has any."""

    parts: dict[Component, ComponentWeights[Any]] = field(default_factory=dict)
    noise: NoiseScheduleConfig | None = None
    tokenizer: Path | None = None

    def fitted(self, model: ModelConfig) -> ModelConfig:
        """The model with the numbers that the weights have; what it says of temporal parts stays. The VAE's it need
        not say: weights of a VideoVAE bring them."""
        if Component.UNET in self.parts:
            model = replace(
                model, unet=replace(self.parts[Component.UNET].config, temporal=model.unet.temporal)
            )
        if Component.VAE in self.parts:
            vae = self.parts[Component.VAE].config
            model = replace(model, vae=replace(vae, temporal=model.vae.temporal or vae.temporal))
        if Component.TEXT in self.parts:
            model = replace(model, text=self.parts[Component.TEXT].config)
        return model if self.noise is None else replace(model, noise=self.noise)

    def without(self, components: Sequence[Component]) -> "InitialWeights":
        """The same without the weights of some networks."""
        return replace(
            self, parts={name: part for name, part in self.parts.items() if name not in components}
        )

    def load(
        self, component: Component, network: Network, shardings: Params, *, seed: int
    ) -> tuple[Params, int]:
        """A network's parameters in their places, and how many of them were there; the rest is fresh."""
        fresh = partial(network.init, key_for(seed, 0, f"init {component.value}"))
        if component not in self.parts:
            return jax.jit(fresh, out_shardings=shardings)(), 0
        part = self.parts[component]
        added = () if getattr(part.config, "temporal", None) is not None else VIDEO_PARTS
        params = part.load(network.shapes, shardings=shardings, may_be_missing=added, fresh=fresh)
        there = [
            leaf for path, leaf in flatten(network.shapes).items() if not may_miss(path, added)
        ]
        return params, sum(leaf.size for leaf in there)

    def opened(self, component: Component) -> tuple[ModelConfig, Networks, Params]:
        """One network to be used and not trained, on this host's own first device: the model, its networks, and
        `{component: parameters}`."""
        model = self.fitted(ModelConfig())
        networks = Networks(model)
        network = networks.by_component[component]
        params, _ = self.load(component, network, on_local_device(network.shapes), seed=0)
        return model, networks, {component.value: params}


def initial_weights(init_from: str, *, argument: str = "config.init_from") -> InitialWeights:
    """`scratch`, one of `EMBEDDED`, a work folder, or anything that `convert` reads. Errors name `argument`."""
    if init_from == "scratch":
        return InitialWeights()
    if not init_from:
        raise UserError(
            f"{argument} is empty: give a diffusers folder, a checkpoint file or a work folder"
        )
    path = EMBEDDED.get(init_from, Path(init_from))
    if not path.exists():
        names = ", ".join(EMBEDDED)
        raise UserError(
            f"{argument}={init_from}: there is nothing at this path; give weights, {names}, or scratch"
        )
    if is_taesd(path):
        return InitialWeights({Component.VAE: open_taesd(path).part()})
    if is_vae_alone(path):
        return InitialWeights({Component.VAE: open_vae(path)})
    folder = RunFolder(path)
    return _from_run(folder) if folder.exists else _from_stable_diffusion(path)


def _from_stable_diffusion(path: Path) -> InitialWeights:
    source = open_source(path)
    parts = {
        Component.UNET: source.unet,
        Component.VAE: source.vae,
        Component.TEXT: source.text_encoder,
    }
    return InitialWeights(parts, source.noise, source.tokenizer)


def run_as_source(folder: RunFolder) -> StableDiffusion | TAESDSource:
    """A run's averaged weights as `convert` reads them: with the sizes and the schedule that it was trained for."""
    experiment, initial = folder.experiment(), _from_run(folder)
    vae = initial.parts[Component.VAE]
    if vae.config.kind is VAEKind.TAESD:
        if Component.UNET in initial.parts:
            raise UserError(
                f"{folder.path}: TAESD stands for its VAE: convert a run with the VAE of its weights"
            )
        return TAESDSource(HALVES, vae.load, vae.config.temporal)
    if (
        initial.noise is None
    ):  # it trained a VAE alone: the other networks are those of the weights it came from
        whole = initial_weights(experiment.init_from)
        initial = replace(whole, parts={**whole.parts, **initial.parts})
    if initial.noise is None or initial.tokenizer is None:
        raise UserError(
            f"{folder.path}: this run trained a VAE alone, and config.init_from={experiment.init_from} has no U-Net, "
            "text encoder and tokenizer to go with it; convert a run that has"
        )
    size = experiment.data.size

    def sized(component: Component, pixels: int) -> ComponentWeights[Any]:
        part = initial.parts[component]
        return replace(part, json={**part.json, "sample_size": pixels})

    return StableDiffusion(
        unet=sized(Component.UNET, size // experiment.model.vae.factor),
        vae=sized(Component.VAE, size),
        text_encoder=initial.parts[Component.TEXT],
        noise=initial.noise,
        noise_json=noise_json(initial.noise),
        tokenizer=initial.tokenizer,
    )


def _from_run(folder: RunFolder) -> InitialWeights:
    """The averaged weights of a run, and what it kept frozen."""
    experiment = folder.experiment()
    networks = Networks(experiment.model)
    params = trained_params(folder, networks, experiment)
    model = experiment.model
    parts: dict[Component, ComponentWeights[Any]] = {
        Component.VAE: component_weights(_vae(model), model.vae, params[Component.VAE.value])
    }
    if Component.UNET.value not in params:
        return InitialWeights(parts)
    parts[Component.UNET] = component_weights(UNET, model.unet, params[Component.UNET.value])
    parts[Component.TEXT] = component_weights(TEXT, model.text, params[Component.TEXT.value])
    return InitialWeights(parts, model.noise, folder.tokenizer)


def _vae(model: ModelConfig) -> ComponentSpec[VAEConfig]:
    return TAESD if model.vae.kind is VAEKind.TAESD else VAE
