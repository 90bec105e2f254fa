"""Work folders of `train` as weights, beside the formats of `weights/formats/`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.models.vae import VAEKind
from magicvideo_jax.weights.clip_encoders import IMAGE_PROMPT
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentWeights,
    Weights,
    component_weights,
)
from magicvideo_jax.weights.fitting import UNetTask, task_of
from magicvideo_jax.weights.flow_components import FLOW_PARTS, FLOW_UNET, LATENT_FLOW, PERCEPTUAL
from magicvideo_jax.weights.formats.taesd_files import TAESD
from magicvideo_jax.weights.formats.weight_format import NO_OPTIONS, OpenOptions
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.param_sources import GivenParams
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.tensor_files import read_json


@dataclass(frozen=True)
class RunWeights(Weights):
    """Averaged weights of a run, and the experiment that made them."""

    experiment: Experiment | None = None
    """None once networks of other weights are among them, of which the run says nothing."""


def experiment_of(weights: Weights) -> Experiment | None:
    """Experiment of the run that weights come from; None for other weights."""
    return weights.experiment if isinstance(weights, RunWeights) else None


def without_experiment(weights: Weights) -> Weights:
    """Weights whose run, if they come from one, says nothing about them."""
    return replace(weights, experiment=None) if isinstance(weights, RunWeights) else weights


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
        if LATENT_FLOW.folder in params:
            kinds = [
                kind for kind in FLOW_PARTS if kind.folder in params and kind is not PERCEPTUAL
            ]
            parts = {
                kind.folder: component_weights(
                    kind, getattr(model, kind.folder), params[kind.folder]
                )
                for kind in kinds
            }
            # The schedule is the U-Net's: an auto-encoder of flow has none.
            noise = model.noise if FLOW_UNET.folder in parts else None
            return RunWeights(parts, noise=noise, is_ours=True, experiment=experiment)
        params = {VAE.folder: {}} | params
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
        low_resolution = None
        if task_of(model.unet) is UNetTask.UPSCALE:
            low_resolution = model.low_resolution_noise
        if IMAGE_PROMPT.folder in params:
            parts[IMAGE_PROMPT.folder] = part(IMAGE_PROMPT, model.image_prompt)
        return RunWeights(
            parts,
            noise=model.noise,
            low_resolution=low_resolution,
            low_resolution_json=None if low_resolution is None else noise_json(low_resolution),
            noise_json=noise_json(model.noise),
            sample_json=to_plain(experiment.sample),
            tokenizer=folder.tokenizer,
            is_ours=True,
            experiment=experiment,
        )


def open_any_weights(
    path: str | Path, *, argument: str, options: OpenOptions = NO_OPTIONS
) -> Weights:
    """Open weights or a work folder: `open_weights` with `RunFolderFormat`."""
    return open_weights(path, argument=argument, options=options, also=(RunFolderFormat(),))


def weights_to_export(weights: Weights) -> Weights:
    """Weights as `convert` writes them: without an image encoder, which only work folders hold; a run
    that trained a VAE alone gets the networks that its VAE belongs to.

    They are those of the weights the run came from; where these have none, or are gone, the VAE
    stays alone.
    """
    experiment = experiment_of(weights)
    if IMAGE_PROMPT.folder in weights.parts:
        parts = {name: x for name, x in weights.parts.items() if name != IMAGE_PROMPT.folder}
        note = "left out the image encoder, for which there is a place in work folders only"
        return replace(weights, parts=parts, notes=(*weights.notes, note))
    if experiment is None or UNET.folder in weights.parts or VAE.folder not in weights.parts:
        return weights
    vae, came_from = weights.parts[VAE.folder], experiment.init_from
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
