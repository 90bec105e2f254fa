"""A work folder: where a run writes, and where a trained model is read from.

config.json      the experiment, with the numbers of its networks     previews/     clips and contact sheets
checkpoints/     state, data position and config, the last few        metrics.jsonl a line a report
frozen/          networks that do not train                           metrics.json  the final scores
tokenizer/       the files of the CLIP tokenizer                       run.lock      which process writes here
"""

import json
import shutil
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import flatten, merge, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Component, Experiment, read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.runtime import processes
from magicvideo_jax.training.checkpoint import Saved

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


def trained_params(folder: RunFolder, networks: Networks, experiment: Experiment) -> Params:
    """The newest average (EMA) of the trained parameters and the frozen ones, together, sharded over the devices here,
    however many trained them.

    Which networks there are, and which of their parameters trained, is read from the checkpoint. Errors: `UserError`
    for no or only corrupt checkpoints, and for one that does not fit the folder's config.
    """
    saved = Saved(folder.path)
    averaged, frozen = saved.parameter_paths()
    names = sorted({path.split(".")[0] for path in averaged | frozen})
    shapes = flatten(networks.shapes([Component(name) for name in names]))
    if shapes.keys() != averaged | frozen:
        odd = sorted(shapes.keys() ^ (averaged | frozen))
        raise UserError(
            f"{folder.path}: its checkpoint and its config.json are not of one model "
            f"({', '.join(odd[:3])}): restore the file that was changed"
        )
    placed = flatten(with_shardings(unflatten(shapes), make_mesh(MeshConfig())))

    def chosen(paths: Set[str]) -> Params:
        return unflatten({path: leaf for path, leaf in placed.items() if path in paths})

    return merge(saved.restore_ema(chosen(averaged)), saved.restore_frozen(chosen(frozen)))
