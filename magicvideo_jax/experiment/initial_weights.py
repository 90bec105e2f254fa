"""Where a run's first weights come from: nothing, Stable Diffusion weights, or another run; the VAE
and the motion modules may come from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.experiment.config import Component, Experiment, ModelConfig
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.models.bind import Network
from magicvideo_jax.models.temporal import VIDEO_PARTS, MotionNorm, with_motion_norm
from magicvideo_jax.models.vae import VAEKind
from magicvideo_jax.parallel.shardings import on_local_device
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import noise_of_fresh_layers
from magicvideo_jax.weights.components import MOTION, TEXT, UNET, VAE, ComponentWeights, Weights
from magicvideo_jax.weights.fingerprint import Fingerprint, fingerprint_difference, vae_fingerprint
from magicvideo_jax.weights.fitting import UNetTask, check_parts, check_task
from magicvideo_jax.weights.folders import INDEX, SAMPLE
from magicvideo_jax.weights.formats.lavie_file import check_lavie_layers
from magicvideo_jax.weights.formats.taesd_files import TAESD
from magicvideo_jax.weights.formats.weight_format import NO_OPTIONS, OpenOptions
from magicvideo_jax.weights.locate import EMBEDDED
from magicvideo_jax.weights.lora.lora_merge import with_loras
from magicvideo_jax.weights.match import may_miss
from magicvideo_jax.weights.motion_weights import with_motion
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.param_sources import GivenParams
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.tensor_files import read_json

__all__ = [
    "EMBEDDED",
    "InitialWeights",
    "initial_of",
    "initial_weights",
    "with_motion_of",
    "with_unet_of",
    "with_vae_of",
]


@dataclass(frozen=True)
class RunWeights(Weights):
    """Averaged weights of a run, and the experiment that made them."""

    experiment: Experiment = field(default_factory=Experiment)


class RunFolderFormat:
    """A work folder of `train`; see `weights/formats/weight_format.py`."""

    name = "a work folder of `train`"

    def matches(self, path: Path) -> bool:
        """Whether there is the config.json of an experiment."""
        config = path / "config.json"
        if not config.is_file():
            return False
        return (path / "checkpoints").is_dir() or "init_from" in read_json(config)

    def open(self, path: Path, options: OpenOptions) -> RunWeights:
        """Open the networks of the run, with the sizes and the schedule that it was trained for."""
        options.refuse_all_but(path=path, why="a work folder")
        folder = RunFolder(path)
        experiment = folder.experiment()
        model, size = experiment.model, experiment.data.size
        params = trained_params(folder, Networks(model), experiment)
        vae = TAESD if model.vae.kind is VAEKind.TAESD else VAE

        def part(kind: Any, config: Any, **fields: int) -> ComponentWeights[Any]:
            trained = params[kind.folder]
            source = GivenParams(trained, lambda: trained, f"{path} ({kind.words})")
            json = kind.write(config)
            return ComponentWeights(kind, config, json | fields if json else json, source)

        parts = {VAE.folder: part(vae, model.vae, sample_size=size)}
        if UNET.folder not in params:
            return RunWeights(parts, is_ours=True, experiment=experiment)
        parts[UNET.folder] = part(UNET, model.unet, sample_size=size // model.vae.factor)
        parts[TEXT.folder] = part(TEXT, model.text)
        return RunWeights(
            parts,
            noise=model.noise,
            noise_json=noise_json(model.noise),
            sample_json=to_plain(experiment.sample),
            tokenizer=folder.tokenizer,
            is_ours=True,
            experiment=experiment,
        )


@dataclass(frozen=True)
class InitialWeights:
    """First weights: a part for each network that has any."""

    parts: dict[Component, ComponentWeights[Any]] = field(default_factory=dict)
    noise: NoiseScheduleConfig | None = None
    tokenizer: Path | None = None
    experiment: Experiment | None = None
    """Experiment of the run they come from; None for other weights."""
    sample: SampleConfig | None = None
    """Settings that the weights are sampled with; None where they say none."""
    motion_norm: MotionNorm = MotionNorm.AUTO
    """Convention that is asked for of motion modules."""
    low_resolution: NoiseScheduleConfig | None = None
    """Noise of the small pictures that an upscaler is given."""

    def fitted(self, model: ModelConfig) -> ModelConfig:
        """The model with the numbers of the weights; its temporal settings stay, but for motion
        modules, which are as their weights have them. The VAE's may be left out: weights of a
        VideoVAE bring them."""
        temporal, noise = model.unet.temporal, self.noise
        if Component.UNET in self.parts:
            unet = self.parts[Component.UNET].config
            if temporal is not None and unet.temporal is None:
                noise = noise_of_fresh_layers(temporal, noise)
            elif temporal is not None and temporal.motion is not None:
                temporal = unet.temporal
            model = replace(model, unet=replace(unet, temporal=temporal))
        if temporal is not None and temporal.motion is not None:
            temporal = with_motion_norm(temporal, self.motion_norm)
            model = replace(model, unet=replace(model.unet, temporal=temporal))
        if Component.VAE in self.parts:
            vae = self.parts[Component.VAE].config
            model = replace(model, vae=replace(vae, temporal=model.vae.temporal or vae.temporal))
        if Component.TEXT in self.parts:
            model = replace(model, text=self.parts[Component.TEXT].config)
        return model if noise is None else replace(model, noise=noise)

    def without(self, components: Sequence[Component]) -> "InitialWeights":
        """The same without the weights of some networks."""
        return replace(
            self, parts={name: part for name, part in self.parts.items() if name not in components}
        )

    def load(
        self, component: Component, network: Network, shardings: Params, *, seed: int
    ) -> tuple[Params, int]:
        """A network's parameters on their devices, and how many of them the weights have; the
        rest is fresh."""
        fresh = partial(network.init, key_for(seed, 0, f"init {component.value}"))
        if component not in self.parts:
            return jax.jit(fresh, out_shardings=shardings)(), 0
        part = self.parts[component]
        added = () if getattr(part.config, "temporal", None) is not None else VIDEO_PARTS
        absent = (*added, *part.lacks)
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


def open_any_weights(
    path: str | Path, *, argument: str, options: OpenOptions = NO_OPTIONS
) -> Weights:
    """Open weights or a work folder: `open_weights` with `RunFolderFormat`."""
    return open_weights(path, argument=argument, options=options, also=(RunFolderFormat(),))


def initial_weights(init_from: str, *, argument: str = "config.init_from") -> InitialWeights:
    """Open first weights: `scratch`, a name of `EMBEDDED`, a work folder, or weights in any known
    form, here or on the Hugging Face Hub.

    Errors: those of `open_weights`; `UserError` naming `argument`.
    """
    if init_from == "scratch":
        return InitialWeights()
    weights = open_any_weights(init_from, argument=argument)
    _say_notes(weights)
    if MOTION.folder in weights.parts:
        raise UserError(
            f"{argument}={init_from}: motion modules alone: give Stable Diffusion 1.x weights here, and "
            "these as config.motion_from or --motion"
        )
    parts = {Component(name): part for name, part in weights.parts.items()}
    experiment = weights.experiment if isinstance(weights, RunWeights) else None
    sample = None
    if weights.sample_json is not None:
        where = f"{init_from}: {INDEX}: {SAMPLE}"
        sample = from_plain(SampleConfig, weights.sample_json, where)
    return InitialWeights(
        parts,
        weights.noise,
        weights.tokenizer,
        experiment,
        sample,
        low_resolution=weights.low_resolution,
    )


def initial_of(experiment: Experiment) -> InitialWeights:
    """The first weights that a config names: those of `init_from`, with the VAE of `vae_from` and
    the U-Net of `unet_from`, the motion modules of `motion_from`, and the LoRA files of `lora`.

    Errors: also `UserError` for weights that are not whole and would leave a network untrained.
    """
    argument = "config.init_from"
    initial = with_vae_of(
        initial_weights(experiment.init_from, argument=argument),
        experiment.vae_from,
        argument="config.vae_from",
    )
    initial = with_unet_of(initial, experiment.unet_from, argument="config.unet_from")
    name = f"{argument}={experiment.init_from}"
    if Component.UNET in initial.parts:
        unet = initial.parts[Component.UNET].config
        check_task(unet, UNetTask.GENERATE, name)
        check_lavie_layers(unet.temporal, experiment.model.unet.temporal, name)
    check_whole(initial, name, vae="set config.vae_from")
    check_halves(initial, ("encoder", "decoder"), name)
    initial = with_motion_of(initial, experiment.motion_from, argument="config.motion_from")
    initial = initial_with_loras(initial, experiment.lora, argument="config.lora")
    return replace(initial, motion_norm=experiment.motion_norm)


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
        differs = fingerprint_difference(_fingerprint_of(other), _fingerprint_of(initial))
        if differs is not None:
            raise UserError(
                f"{argument}={weights} decodes latents of another VAE ({differs}): give one made of "
                "this model's, or leave it empty"
            )
    joined = replace(initial, parts={**initial.parts, Component.VAE: other.parts[Component.VAE]})
    parts = {component.value: part for component, part in joined.parts.items()}
    check_parts(Weights(parts), f"{argument}={weights}")
    return joined


def with_unet_of(
    initial: InitialWeights,
    weights: str,
    *,
    argument: str,
    task: UNetTask = UNetTask.GENERATE,
) -> InitialWeights:
    """First weights with the U-Net of other `weights` and its noise schedule; empty: unchanged.

    Errors: `UserError` naming `argument` where there is no U-Net, one of another task, or one that
    does not fit the VAE and the text encoder.
    """
    if weights:
        name = f"{argument}={weights}"
        other = initial_weights(weights, argument=argument)
        if Component.UNET not in other.parts:
            raise UserError(f"{name}: no U-Net: give a file of LaVie, or other weights of a U-Net")
        unet = other.parts[Component.UNET]
        initial = replace(
            initial,
            parts={**initial.parts, Component.UNET: unet},
            noise=other.noise,
            experiment=None,  # that of a run says nothing about another U-Net
            sample=other.sample,
        )
        check_task(unet.config, task, name)
        check_parts(Weights({part.value: one for part, one in initial.parts.items()}), name)
    return initial


def with_motion_of(initial: InitialWeights, weights: str, *, argument: str) -> InitialWeights:
    """First weights whose U-Net has the motion modules of other `weights`, and their noise schedule;
    empty: unchanged.

    Errors: `UserError` naming `argument` where the two do not fit each other.
    """
    if not weights:
        return initial
    other = open_any_weights(weights, argument=argument)
    _say_notes(other)
    unet = with_motion(initial.parts.get(Component.UNET), other, name=f"{argument}={weights}")
    parts = {**initial.parts, Component.UNET: unet}
    # The experiment of a run of images says nothing about clips.
    return replace(initial, parts=parts, noise=other.noise, experiment=None)


def initial_with_loras(
    initial: InitialWeights, loras: Sequence[str], *, argument: str
) -> InitialWeights:
    """First weights with LoRA files added, each `FILE` or `FILE:SCALE`. Errors: those of
    `with_loras`."""
    parts = {component.value: part for component, part in initial.parts.items()}
    merged = with_loras(parts, loras, argument=argument)
    return replace(initial, parts={Component(name): part for name, part in merged.items()})


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


def weights_to_export(weights: Weights) -> Weights:
    """Weights as `convert` writes them: a run that trained a VAE alone gets the networks that its
    VAE belongs to.

    They are those of the weights the run came from; where these have none, or are gone, the VAE
    stays alone.
    """
    if not isinstance(weights, RunWeights) or UNET.folder in weights.parts:
        return weights
    vae, came_from = weights.parts[VAE.folder], weights.experiment.init_from
    if vae.kind is TAESD or came_from == "scratch":
        return weights
    try:
        whole = open_any_weights(came_from, argument="config.init_from")
    except UserError as error:
        return replace(weights, notes=(f"writing the VAE alone: {error}",))
    if UNET.folder not in whole.parts:
        note = f"writing the VAE alone: config.init_from={came_from} has no U-Net to go with it"
        return replace(weights, notes=(note,))
    return replace(whole, parts={**whole.parts, VAE.folder: vae}, is_ours=True)


def _fingerprint_of(initial: InitialWeights) -> Fingerprint:
    model, _, params = initial.opened(Component.VAE)
    return vae_fingerprint(params[Component.VAE.value], model.vae)


def _say_notes(weights: Weights) -> None:
    for note in weights.notes:
        _say_once(f"note: {note}")


@cache
def _say_once(line: str) -> None:
    say(line)
