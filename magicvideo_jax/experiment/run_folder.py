"""A work folder: where a run writes, and where a trained model is read from.

config.json      the experiment, with the numbers of its networks     previews/     clips and contact sheets
checkpoints/     state, data position and config, the last few        metrics.jsonl a line a report
frozen/          networks that do not train                           metrics.json  the final scores
tokenizer/       the files of the CLIP tokenizer                       run.lock      which process writes here
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import merge, split_by_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Component, Experiment, TrainingStage, read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.runtime import processes
from magicvideo_jax.training.checkpoint import Saved
from magicvideo_jax.training.optimizer import is_trained

# What a run is; the rest (steps, learning rate, mesh, sampling) may change from one start to the next.
_FIXED = (
    "seed",
    "stage",
    "init_from",
    "vae_from",
    "data",
    "denoising",
    "autoencoding",
    "video_vae",
)


class RunFolder:
    """Paths, and what is in them."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.previews = path / "previews"
        self.tokenizer = path / "tokenizer"
        self.metrics = path / "metrics.json"

    @property
    def exists(self) -> bool:
        return self.config.is_file()

    def create(self) -> None:
        """Asked before anything long begins. Errors: a place that cannot be written."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workdir={self.path}: cannot write there: {error.strerror or error}"
            ) from None

    def copy_tokenizer(self, files: Path) -> None:
        """A work folder is whole without the weights it came from."""
        if processes.is_leader() and files != self.tokenizer:
            shutil.copytree(files, self.tokenizer, dirs_exist_ok=True)

    def write_config(self, experiment: Experiment) -> None:
        if processes.is_leader():
            write_json(self.config, to_plain(experiment))

    def continued(self, asked: Experiment) -> Experiment:
        """What is asked for, with the networks that the run here has. Errors: what a run cannot change on its way."""
        here = self.experiment()
        model = replace(here.model, compute=asked.model.compute, remat=asked.model.remat)
        fixed = {name: to_plain(getattr(asked, name)) for name in _FIXED}
        for name in _FIXED:
            if to_plain(getattr(here, name)) != fixed[name]:
                raise UserError(
                    f"--workdir={self.path} holds a run with another config.{name}: give the config it began with, "
                    "or another --workdir (and --config.init_from to begin with its weights)"
                )
        if (here.optim.freeze, here.model.trained, here.model.unet.temporal) != (
            asked.optim.freeze,
            asked.model.trained,
            asked.model.unet.temporal,
        ):
            raise UserError(
                f"--workdir={self.path} holds a run with another optim.freeze, model.trained or model.unet.temporal: "
                "give another --workdir, and --config.init_from to begin with its weights"
            )
        return replace(asked, model=model)

    def experiment(self) -> Experiment:
        """What is, or was, run here."""
        if not self.exists:
            raise UserError(
                f"{self.path}: not a work folder (no config.json): give the --workdir of a training run"
            )
        try:
            return read_experiment(json.loads(self.config.read_text()))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.config}: not JSON (line {error.lineno}): restore it or train anew"
            ) from None


MODEL = (Component.UNET, Component.VAE, Component.TEXT)
"""The networks of a text-to-video model."""


def components_of(experiment: Experiment) -> tuple[Component, ...]:
    """The networks that an experiment needs."""
    if experiment.stage.has_text:
        return MODEL
    has_rival = experiment.stage is TrainingStage.VIDEO_VAE and experiment.video_vae.adversarial > 0
    return (Component.VAE, Component.DISCRIMINATOR) if has_rival else (Component.VAE,)


def shapes_of(networks: Networks, experiment: Experiment) -> Params:
    """The whole parameters of an experiment, as shapes."""
    return {c.value: networks.by_component[c].shapes for c in components_of(experiment)}


def split_trained(params: Params, experiment: Experiment) -> tuple[Params, Params]:
    """What trains, and what is frozen."""
    components = {c.value for c in experiment.model.trained}

    def chosen(path: str) -> bool:
        component, _, inside = path.partition(".")
        if component == Component.DISCRIMINATOR.value:
            return True
        return component in components and is_trained(experiment.optim.freeze, inside)

    return split_by_path(params, chosen)


def trained_params(folder: RunFolder, networks: Networks, experiment: Experiment) -> Params:
    """The newest average (EMA) of what was trained, and what was frozen, together; spread over the devices there are.

    The number of devices need not be that of the training.
    """
    places = with_shardings(shapes_of(networks, experiment), make_mesh(MeshConfig()))
    trained, frozen = split_trained(places, experiment)
    saved = Saved(folder.path)
    return merge(saved.restore_ema(trained), saved.restore_frozen(frozen))
