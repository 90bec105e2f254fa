"""A work folder: where a run writes, and where a trained model is read from.

config.json      the experiment, with the numbers of its networks     previews/     clips and contact sheets
checkpoints/     state, data position and config, the last few        metrics.jsonl a line a report
frozen/          networks that do not train                           metrics.json  the final scores
tokenizer/       the files of the CLIP tokenizer
"""

import json
import shutil
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.settings import to_plain
from magicvideo_jax.core.tree import merge, split
from magicvideo_jax.experiment.config import Component, Experiment, Stage, read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import trains


class WorkFolder:
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

    def create(self, experiment: Experiment, tokenizer: Path | None) -> None:
        """Config and tokenizer, written before anything long begins."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
            if tokenizer is not None and tokenizer != self.tokenizer:
                shutil.copytree(tokenizer, self.tokenizer, dirs_exist_ok=True)
            write_json(self.config, to_plain(experiment))
        except OSError as error:
            raise UserError(f"--workdir={self.path}: cannot write there: {error.strerror or error}") from None

    def experiment(self) -> Experiment:
        """What is, or was, run here."""
        if not self.exists:
            raise UserError(f"{self.path}: not a work folder (no config.json): give the --workdir of a training run")
        try:
            return read_experiment(json.loads(self.config.read_text()))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.config}: not JSON (line {error.lineno}): restore it or train anew") from None


def components_of(stage: Stage) -> tuple[Component, ...]:
    """The networks that a stage needs."""
    return (Component.VAE,) if stage is Stage.VAE else (Component.UNET, Component.VAE, Component.TEXT)


def shapes_of(networks: Networks, experiment: Experiment) -> Params:
    """The whole parameters of an experiment, as shapes."""
    return {c.value: networks.by_component[c].shapes for c in components_of(experiment.stage)}


def split_trained(params: Params, experiment: Experiment) -> tuple[Params, Params]:
    """What trains, and what is frozen."""
    components = {c.value for c in experiment.model.trained}

    def chosen(path: str) -> bool:
        component, _, inside = path.partition(".")
        return component in components and trains(experiment.optim.freeze, inside)

    return split(params, chosen)


def trained_params(folder: WorkFolder, networks: Networks, experiment: Experiment) -> Params:
    """The newest average (EMA) of what was trained, and what was frozen, together."""
    trained, frozen = split_trained(shapes_of(networks, experiment), experiment)
    checkpoints = Checkpoints(folder.path)
    try:
        return merge(checkpoints.restore_ema(trained), checkpoints.restore_frozen(frozen))
    finally:
        checkpoints.close()
