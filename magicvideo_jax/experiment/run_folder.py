"""A work folder: where a run writes, and where a trained model is read from.

config.json      the experiment, with the numbers of its networks     previews/     clips and contact sheets
requested.json   the experiment as the command gave it, and the identity of its data sets
checkpoints/     state, data position and config, the last few        metrics.jsonl a line a report
frozen/          networks that do not train                           metrics.json  the final scores
tokenizer/       the files of the CLIP tokenizer                       run.lock      which process writes here
"""

import json
import shutil
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.records import records_identity
from magicvideo_jax.experiment.config import (
    DRAWN,
    Component,
    Experiment,
    read_experiment,
    with_new_names,
)
from magicvideo_jax.experiment.networks import Networks, model_params, run_shapes
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.runtime import processes
from magicvideo_jax.training.checkpoint import Saved
from magicvideo_jax.training.lora import FactorsByKernel, lora_factors
from magicvideo_jax.weights.lora.lora_merge import parse_lora

MAY_CHANGE = {
    "": False,
    "data.workers": True,
    "decode": True,
    "evaluate": True,
    "mesh": True,
    "model.compute": True,
    "model.remat": True,
    "model.text_by_frame": True,
    "optim": True,
    "optim.decay_kernels_only": False,  # the optimizer's state depends on it, and on what trains
    "optim.freeze": False,
    "optim.kernels": False,
    "optim.lora": False,
    "sample": True,
    "train": True,
}
"""Whether a field may differ from one start of a run to the next; the longest path that leads to it decides."""

SOURCES = ("sources", "image_sources")
"""The fields of `config.data` that name data sets."""


class RunFolder:
    """Paths, and what is in them."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.requested = path / "requested.json"
        self.previews = path / "previews"
        self.tokenizer = path / "tokenizer"
        self.metrics = path / "metrics.json"

    @property
    def exists(self) -> bool:
        return self.config.is_file()

    def create(self) -> None:
        """Make the folders, before anything long begins. Errors: `UserError` for a place that cannot be written."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workdir={self.path}: cannot write there: {error.strerror or error}"
            ) from None

    def copy_tokenizer(self, files: Path) -> None:
        """Copy the tokenizer's files, so that the folder does not depend on the weights it came from."""
        if processes.is_leader() and files != self.tokenizer:
            shutil.copytree(files, self.tokenizer, dirs_exist_ok=True)

    def write_config(self, experiment: Experiment) -> None:
        if processes.is_leader():
            write_json(self.config, to_plain(experiment))

    def write_requested(self, requested: Experiment) -> None:
        """Keep what a rerun is compared with: the experiment before the weights gave their numbers to
        its networks, and the identity of each data set."""
        if processes.is_leader():
            paths = {source.path for name in SOURCES for source in getattr(requested.data, name)}
            sets = {path: records_identity(path) for path in sorted(paths - {DRAWN})}
            write_json(self.requested, {"config": to_plain(requested), "data_sets": sets})

    def continued(self, requested: Experiment, *, done: int) -> Experiment:
        """The experiment of a rerun after `done` steps: the settings requested, with the networks of the run here.

        Errors: `UserError` naming the field that a rerun may not change (`MAY_CHANGE`), its old and its
        new value; other data; fewer steps than were done.
        """
        here = self.experiment()
        if requested.train.steps < done:
            raise UserError(
                f"config.train.steps={requested.train.steps}: the run in --workdir={self.path} has done {done} steps: "
                f"give at least {done}"
            )
        before, sets = self._requested_before(here, requested)
        old, new = _fields(before), _fields(requested)
        for path in (*new, *(path for path in old if path not in new)):
            was, now = old.get(path), new.get(path)
            if not (_may_change(path) or _is_same(path, was, now, sets)):
                has = "other data at this path" if was == now else was
                raise UserError(
                    f"config.{path}={now}: the run in --workdir={self.path} has {has}, and a rerun cannot change it: "
                    f"give that, or another --workdir (with --config.init_from={self.path} to begin with its weights)"
                )
        model = replace(
            here.model,
            compute=requested.model.compute,
            remat=requested.model.remat,
            text_by_frame=requested.model.text_by_frame,
        )
        return replace(requested, model=model)

    def _requested_before(
        self, here: Experiment, requested: Experiment
    ) -> tuple[Experiment, Mapping[str, str | None]]:
        """The experiment requested when the run began, and the identities of its data sets by path."""
        if self.requested.is_file():
            began = _read_json(self.requested)
            return _read(began.get("config"), self.requested), began.get("data_sets", {})
        # A run of an earlier version: which of its networks' numbers came from weights is not known.
        unet = replace(requested.model.unet, temporal=here.model.unet.temporal)
        model = replace(requested.model, unet=unet, trained=here.model.trained)
        return replace(here, model=model), {}

    def experiment(self) -> Experiment:
        """The experiment that is, or was, run here. Errors: `UserError` for a folder without one, or a broken file."""
        if not self.exists:
            raise UserError(
                f"{self.path}: not a work folder (no config.json): give the --workdir of a training run"
            )
        return _read(_read_json(self.config), self.config)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: not JSON (line {error.lineno}): restore it or train anew"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}): restore it or train anew") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no fields: restore it or train anew")
    return content


def _read(plain: Any, file: Path) -> Experiment:
    """The experiment in a file, which an earlier version may have written."""
    plain = with_new_names(plain) if isinstance(plain, dict) else plain
    return read_experiment(plain, f"{file}: config")


def _fields(experiment: Experiment) -> dict[str, Any]:
    """Every field by its dotted path; sources one by one, as in `data.sources[0].path`."""
    plain = to_plain(experiment)
    for name in SOURCES:
        sources = plain["data"].pop(name)
        plain["data"] |= {f"{name}[{i}]": source for i, source in enumerate(sources)}
    return flatten(plain)


def _is_same(field: str, was: Any, now: Any, sets: Mapping[str, str | None]) -> bool:
    """Whether two values of a field mean the same: a data set may have moved, a path have another spelling."""
    if field in ("init_from", "vae_from", "unet_from", "motion_from", "image_encoder_from"):
        return was == now or _is_same_place(was, now)
    if field == "lora":
        return len(was) == len(now) and all(map(_is_same_lora, was, now))
    if not field.endswith("].path") or None in (was, now) or DRAWN in (was, now):
        return was == now
    there, known = records_identity(now), sets.get(was)
    if there is None:  # opening it says so
        return True
    return there == known if known else _is_same_place(was, now)


def _is_same_place(one: str, other: str) -> bool:
    """Whether two spellings of a path lead to one place; empty paths and URLs are compared as they are."""
    try:
        return local_path(one, argument="") == local_path(other, argument="")
    except UserError:
        return one == other


def _is_same_lora(one: str, other: str) -> bool:
    (file, scale), (other_file, other_scale) = (
        parse_lora(text, argument="config.lora") for text in (one, other)
    )
    return scale == other_scale and _is_same_place(file, other_file)


def _may_change(path: str) -> bool:
    parts = path.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), -1, -1))
    return next(MAY_CHANGE[prefix] for prefix in prefixes if prefix in MAY_CHANGE)


def trained_params(folder: RunFolder, networks: Networks, experiment: Experiment) -> Params:
    """The newest average (EMA) of the trained parameters and the frozen ones, together, sharded over the devices here,
    however many trained them. LoRA is added to its kernels.

    Which networks there are, and which of their parameters trained, is read from the checkpoint. Errors: `UserError`
    for no or only corrupt checkpoints, and for one that does not fit the folder's config.
    """
    saved, averaged, frozen = _saved_shapes(folder, networks, experiment)
    return model_params(saved.restore_ema(averaged), saved.restore_frozen(frozen), experiment)


def trained_factors(
    folder: RunFolder, networks: Networks, experiment: Experiment
) -> dict[str, FactorsByKernel]:
    """The newest average of the LoRA that a run trains, by network. Errors: as for `trained_params`."""
    saved, averaged, _ = _saved_shapes(folder, networks, experiment)
    return {name: lora_factors(tree) for name, tree in saved.restore_ema(averaged).items()}


def _saved_shapes(
    folder: RunFolder, networks: Networks, experiment: Experiment
) -> tuple[Saved, Params, Params]:
    """What a run has saved, and the shapes of its averaged and of its frozen parameters, placed on the devices here."""
    saved = Saved(folder.path)
    averaged, frozen = saved.parameter_paths()
    names = sorted({path.split(".")[0] for path in averaged | frozen})
    shapes = flatten(run_shapes(networks, [Component(name) for name in names], experiment))
    if shapes.keys() != averaged | frozen:
        odd = sorted(shapes.keys() ^ (averaged | frozen))
        raise UserError(
            f"{folder.path}: its checkpoint and its config.json are not of one model "
            f"({', '.join(odd[:3])}): restore the file that was changed"
        )
    placed = flatten(with_shardings(unflatten(shapes), make_mesh(MeshConfig())))

    def chosen(paths: Set[str]) -> Params:
        return unflatten({path: leaf for path, leaf in placed.items() if path in paths})

    return saved, chosen(averaged), chosen(frozen)
