"""Where a run's first weights come from: nothing, Stable Diffusion weights, or another run; the VAE
and the motion modules may come from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax

from magicvideo_jax.core.dataclass_dict import from_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Component, Experiment, ModelConfig
from magicvideo_jax.experiment.networks import FLOW, PIPELINE, Networks
from magicvideo_jax.experiment.opening.run_weights import experiment_of
from magicvideo_jax.experiment.opening.weight_additions import CONFIG, open_networks, with_additions
from magicvideo_jax.models.bind import Network
from magicvideo_jax.models.temporal import VIDEO_PARTS, MotionNorm, with_motion_norm
from magicvideo_jax.parallel.shardings import on_local_device
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import noise_of_fresh_layers
from magicvideo_jax.weights.clip_encoders import IMAGE_PROMPT, open_image_prompt
from magicvideo_jax.weights.components import TEXT, ComponentWeights, Weights
from magicvideo_jax.weights.fingerprint import Fingerprint, fingerprint_difference, vae_fingerprint
from magicvideo_jax.weights.fitting import UNetTask, check_parts, check_task
from magicvideo_jax.weights.flow_components import (
    CLASS_VECTORS,
    PERCEPTUAL,
    open_class_vectors,
    open_perceptual,
)
from magicvideo_jax.weights.folders import INDEX, SAMPLE
from magicvideo_jax.weights.formats.lavie_file import check_lavie_layers
from magicvideo_jax.weights.locate import EMBEDDED
from magicvideo_jax.weights.match import may_miss

__all__ = [
    "EMBEDDED",
    "InitialWeights",
    "check_same_latents",
    "initial_from",
    "initial_of",
    "initial_weights",
    "with_vae_of",
]


@dataclass(frozen=True)
class InitialWeights:
    """First weights, opened: a part for each network that has any."""

    weights: Weights = field(default_factory=Weights)
    motion_norm: MotionNorm = MotionNorm.AUTO
    """Convention that is asked for of motion modules, those that begin as identities too."""

    @property
    def parts(self) -> dict[Component, ComponentWeights[Any]]:
        """The networks."""
        return {Component(name): part for name, part in self.weights.parts.items()}

    @property
    def experiment(self) -> Experiment | None:
        """Experiment of the run they come from; None for other weights."""
        return experiment_of(self.weights)

    def sample(self, name: str) -> SampleConfig | None:
        """Settings that the weights are sampled with; None where they say none.

        Errors: `UserError` that begins with `name` for settings that are out of range.
        """
        if self.weights.sample_json is None:
            return None
        return from_plain(SampleConfig, self.weights.sample_json, f"{name}: {INDEX}: {SAMPLE}")

    def fitted(self, model: ModelConfig) -> ModelConfig:
        """The model with the numbers of the weights; its temporal settings stay, but for motion
        modules, which are as their weights have them, and a layer for known frames, which weights
        bring. The VAE's may be left out: weights of a VideoVAE bring them."""
        temporal, noise = model.unet.temporal, self.weights.noise
        if Component.UNET in self.parts:
            unet = self.parts[Component.UNET].config
            guidance = model.unet.guidance_channels or unet.guidance_channels
            if temporal is not None and unet.temporal is None:
                noise = noise_of_fresh_layers(temporal, noise)
            elif temporal is not None and temporal.motion is not None:
                temporal = unet.temporal
            elif temporal is not None and unet.temporal.known_frames:
                temporal = replace(temporal, known_frames=True)
            unet = replace(unet, temporal=temporal, guidance_channels=guidance)
            model = replace(model, unet=unet)
        if temporal is not None and temporal.motion is not None:
            temporal = with_motion_norm(temporal, self.motion_norm)
            model = replace(model, unet=replace(model.unet, temporal=temporal))
        if Component.VAE in self.parts:
            vae = self.parts[Component.VAE].config
            model = replace(model, vae=replace(vae, temporal=model.vae.temporal or vae.temporal))
        if Component.TEXT in self.parts:
            model = replace(model, text=self.parts[Component.TEXT].config)
        if self.weights.low_resolution is not None:
            model = replace(model, low_resolution_noise=self.weights.low_resolution)
        if Component.IMAGE in self.parts:
            model = replace(model, image_prompt=self.parts[Component.IMAGE].config)
        for component in FLOW:
            if component in self.parts:
                config = self.parts[component].config
                if self.experiment is None and component is Component.LATENT_FLOW:
                    # The one thing that files do not say.
                    padded = model.latent_flow is not None and model.latent_flow.padded_regions
                    config = replace(config, padded_regions=padded)
                model = replace(model, **{component.value: config})
        return model if noise is None else replace(model, noise=noise)

    def without(self, components: Sequence[Component]) -> "InitialWeights":
        """The same without the weights of some networks."""
        left_out = [component.value for component in components]
        parts = {name: x for name, x in self.weights.parts.items() if name not in left_out}
        return replace(self, weights=replace(self.weights, parts=parts))

    def load(
        self, component: Component, network: Network, shardings: Params, *, seed: int
    ) -> tuple[Params, int]:
        """A network's parameters on their devices, and how many of them the weights have; the
        rest is fresh."""
        fresh = partial(network.init, key_for(seed, 0, f"init {component.value}"))
        component = Component.UNET if component is Component.TEACHER else component
        if component not in self.parts:
            return jax.jit(fresh, out_shardings=shardings)(), 0
        part = self.parts[component]
        absent = (*_parts_not_in(part.config), *part.lacks)
        params = part.load(network.shapes, shardings=shardings, may_be_missing=absent, fresh=fresh)
        there = [
            leaf for path, leaf in flatten(network.shapes).items() if not may_miss(path, absent)
        ]
        return params, sum(leaf.size for leaf in there)

    def opened(self, component: Component) -> tuple[ModelConfig, Networks, Params]:
        """One network for use without training, on this host's first device: the model, its
        networks, and `{component: parameters}`."""
        model = self.fitted(ModelConfig())
        networks = Networks(model)
        network = networks.by_component[component]
        params, _ = self.load(component, network, on_local_device(network.shapes), seed=0)
        return model, networks, {component.value: params}


def initial_weights(init_from: str, *, argument: str = "config.init_from") -> InitialWeights:
    """Open first weights: `scratch`, a name of `EMBEDDED`, a work folder, or weights in any known
    form, here or on the Hugging Face Hub.

    Errors: those of `open_weights`; `UserError` naming `argument`.
    """
    return initial_from(open_networks(init_from, argument=argument))


def initial_from(weights: Weights, motion_norm: MotionNorm = MotionNorm.AUTO) -> InitialWeights:
    """First weights of opened ones, whose notes are said, each once."""
    for note in weights.notes:
        _say_once(f"note: {note}")
    return InitialWeights(weights, motion_norm)


def initial_of(experiment: Experiment, task: UNetTask = UNetTask.GENERATE) -> InitialWeights:
    """The first weights that a config names: those of `init_from`, with the VAE of `vae_from` and
    the U-Net of `unet_from`, the motion modules of `motion_from`, the LoRA files of `lora`, and the
    image encoder of `image_encoder_from`.

    `task` is that of the U-Net that shall train.

    Errors: also `UserError` for weights that are not whole and would leave a network untrained.
    """
    argument = "config.init_from"
    initial = initial_weights(experiment.init_from, argument=argument)
    initial = with_vae_of(initial, experiment.vae_from, argument="config.vae_from")
    weights = with_additions(
        initial.weights,
        CONFIG,
        unet=experiment.unet_from,
        motion=experiment.motion_from,
        loras=experiment.lora,
    )
    weights = _with_image_encoder(weights, experiment)
    weights = _with_flow_files(weights, experiment)
    initial = initial_from(weights, experiment.motion_norm)
    name = f"{argument}={experiment.init_from}"
    if Component.UNET in initial.parts:
        unet = initial.parts[Component.UNET].config
        check_task(unet, task, name)
        check_lavie_layers(unet.temporal, experiment.model.unet.temporal, name)
    _check_flow(initial, experiment, name)
    check_whole(initial, name, vae="set config.vae_from")
    check_halves(initial, ("encoder", "decoder"), name)
    return initial


def with_vae_of(initial: InitialWeights, weights: str, *, argument: str) -> InitialWeights:
    """First weights with the VAE of other `weights`, in any form that holds one; empty: unchanged.

    Errors: `UserError` naming `argument` where there is no VAE, or one with latents of its own.
    """
    if not weights:
        return initial
    other = initial_weights(weights, argument=argument)
    if Component.VAE not in other.parts:
        raise UserError(
            f"{argument}={weights}: no VAE: give a work folder or weights that hold one"
        )
    if Component.VAE in initial.parts:
        differs = _latent_difference(other, initial)
        if differs is not None:
            raise UserError(
                f"{argument}={weights} decodes latents of another VAE ({differs}): give one made of "
                "this model's, or leave it empty"
            )
    vae = other.parts[Component.VAE]
    parts = {**initial.weights.parts, Component.VAE.value: vae}
    joined = replace(initial.weights, parts=parts)
    check_parts(joined, f"{argument}={weights}")
    return replace(initial, weights=joined)


def check_same_latents(initial: InitialWeights, other: InitialWeights, name: str) -> None:
    """Check that `other` weights, where they hold a VAE, have the latents of the first.

    Errors: `UserError` that begins with `name`.
    """
    if all(Component.VAE in one.parts for one in (initial, other)):
        differs = _latent_difference(other, initial)
        if differs is not None:
            raise UserError(
                f"{name}: for latents of another VAE than that of --weights ({differs}): give those that it was "
                "trained with"
            )


def _with_image_encoder(weights: Weights, experiment: Experiment) -> Weights:
    """Weights with the image encoder that the config asks for, or without any."""
    parts = dict(weights.parts)
    if not experiment.needs_image_encoder:
        parts.pop(IMAGE_PROMPT.folder, None)
    elif experiment.image_encoder_from:
        text = parts[TEXT.folder].config if TEXT.folder in parts else experiment.model.text
        parts[IMAGE_PROMPT.folder] = open_image_prompt(
            experiment.image_encoder_from,
            text_width=text.width,
            argument="config.image_encoder_from",
        )
    return replace(weights, parts=parts)


def _with_flow_files(weights: Weights, experiment: Experiment) -> Weights:
    """Weights with the VGG-19 of the losses of latent flow, and the vectors of classes, from their files."""
    parts, vgg = dict(weights.parts), experiment.latent_flow.vgg
    vectors, unet = experiment.flow_diffusion.class_vectors, experiment.model.flow_unet
    if vgg:
        parts[PERCEPTUAL.folder] = open_perceptual(vgg, argument="config.latent_flow.vgg")
    if vectors and unet is not None:
        argument = "config.flow_diffusion.class_vectors"
        names = experiment.class_names
        parts[CLASS_VECTORS.folder] = open_class_vectors(
            vectors, names, unet.condition, argument=argument
        )
    return replace(weights, parts=parts)


def _check_flow(initial: InitialWeights, experiment: Experiment, name: str) -> None:
    """Check that weights have an auto-encoder of flow where a model needs one, and only there.

    Errors: `UserError` that begins with `name`.
    """
    model, has_flow = experiment.model, Component.LATENT_FLOW in initial.parts
    begins_fresh = model.flow_unet is None and experiment.init_from == "scratch"
    if model.latent_flow is not None and not has_flow and not begins_fresh:
        raise UserError(
            f"{name}: holds no auto-encoder of flow: give a run of configs/lfdm.py, or LFDM's file"
        )
    if model.latent_flow is None and set(FLOW) & set(initial.parts):
        raise UserError(
            f"{name}: holds networks of latent flow, which stage={experiment.stage} has no use for: "
            "give other weights, or a preset of configs/lfdm.py"
        )


def check_whole(initial: InitialWeights, name: str, *, vae: str) -> None:
    """Check that weights with a U-Net have its VAE and text encoder: fresh ones would be of no
    use to it.

    Errors: `UserError` that begins with `name` and says what supplies the part; `vae` says it of
    the VAE.
    """
    if Component.UNET not in initial.parts:
        return
    cures = {Component.VAE: vae, Component.TEXT: "convert them with --text WEIGHTS"}
    missing = [component for component in PIPELINE if component not in initial.parts]
    if missing:
        words = {Component.VAE: "VAE", Component.TEXT: "text encoder"}
        cure = ", and ".join(cures[one] for one in missing)
        if len(missing) == len(PIPELINE) - 1:
            cure = "give weights that hold them, and this U-Net as config.unet_from or --unet"
        raise UserError(
            f"{name}: holds no {' and no '.join(words[one] for one in missing)}: {cure}"
        )


def check_halves(initial: InitialWeights, needed: Sequence[str], name: str) -> None:
    """Check that a VAE has the halves that are needed: TAESD's may be one alone. Errors:
    `UserError`."""
    part = initial.parts.get(Component.VAE)
    for half in needed:
        if part is not None and half in part.lacks:
            raise UserError(f"{name}: TAESD without its {half}: add taesd_{half}.safetensors")


def _parts_not_in(config: Any) -> tuple[str, ...]:
    """Parts that weights of this config lack, and a network that begins with them may have."""
    temporal = getattr(config, "temporal", None)
    guidance = () if getattr(config, "guidance_channels", 0) else ("cond_proj",)
    if temporal is None:
        return (*VIDEO_PARTS, *guidance)
    known = () if getattr(temporal, "known_frames", False) else ("known_frames",)
    return (*known, *guidance)


def _latent_difference(one: InitialWeights, other: InitialWeights) -> str | None:
    """Words for how the latents of two differ; None where they do not."""
    return fingerprint_difference(_fingerprint_of(one), _fingerprint_of(other))


def _fingerprint_of(initial: InitialWeights) -> Fingerprint:
    model, _, params = initial.opened(Component.VAE)
    return vae_fingerprint(params[Component.VAE.value], model.vae)


@cache
def _say_once(line: str) -> None:
    say(line)
