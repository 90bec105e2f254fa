"""One run of an ablation: trained by the product in a work folder of its own, scored, and measured.

DIR/NAME/SEED/   the work folder; `image_decoder.json` and the like beside `metrics.json` are the readings
DIR/weights/     what `stand_ins.py` writes
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.claims.ablation import REPORTED_SCENES, Ablation
from benchmarks.claims.ablations import ABLATIONS
from benchmarks.claims.config_files import experiment_of
from benchmarks.claims.stand_ins import STAND_INS, write_once
from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.run import run
from magicvideo_jax.runtime.preemption import PreemptionListener

SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "train.save_every": 100,
        "train.preview_every": 100_000,  # one, at the end
        "sample.steps": 10,
        "evaluate.clips": 128,
        "evaluate.seed": REPORTED_SCENES,
    }
)
"""Config fields of all ablations."""


@dataclass(frozen=True)
class OneRun:
    """An ablation with a training seed, in a folder of all runs."""

    ablation: Ablation
    seed: int
    root: Path
    steps: int
    """Steps of an ablation of length 1."""
    settings: Mapping[str, Any] = field(default_factory=lambda: SETTINGS)

    @property
    def name(self) -> str:
        return f"{self.ablation.name}/{self.seed}"

    @property
    def workdir(self) -> Path:
        return self.root / self.ablation.name / str(self.seed)

    @property
    def before(self) -> tuple["OneRun", ...]:
        """Runs of the same seed that it begins with."""
        names = tuple(self.ablation.names_of_others)
        return tuple(replace(self, ablation=one) for one in ABLATIONS if one.name in names)

    @property
    def experiment(self) -> Experiment:
        """The config of the run."""
        folders = {name: self._weights(name) for name in STAND_INS}
        folders |= {one.ablation.name: one.workdir for one in self.before}
        steps = max(1, round(self.steps * self.ablation.length))
        changes = {"seed": self.seed, "train.steps": steps, **self.settings}
        return experiment_of(self.ablation.config, changes | self.ablation.changes_with(folders))

    @property
    def scores(self) -> dict[str, Any] | None:
        """What the run has written at its end; None before."""
        return read_if_there(self.workdir / "metrics.json")

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        readings = (self._reading(name).exists() for name in self.ablation.readings)
        return self.scores is not None and all(readings)

    def reading(self, name: str) -> dict[str, Any] | None:
        """A measurement beside the scores; None before it is made."""
        return read_if_there(self._reading(name))

    def check(self) -> None:
        """Errors: `UserError` for a work folder of another config, such as other `--steps`."""
        requested = read_if_there(self.workdir / "requested.json")
        if requested is None:
            return
        # Read as a config, so that a field that is newer than the run has its default.
        before = from_plain(Experiment, requested["config"])
        here, asked = (_texts(to_plain(one)) for one in (before, self.experiment))
        for path in sorted(here.keys() | asked.keys()):
            if here.get(path) != asked.get(path):
                raise UserError(
                    f"{self.workdir}: a run with config.{path}={here.get(path)}, not "
                    f"{asked.get(path)}: give another --workdir, or remove this folder"
                )

    def make(self, preemption: PreemptionListener | None = None) -> None:
        """Do what is left of the runs before, then of this: train, score and measure.

        Errors: those of `run`; `UserError` for a folder of another config.
        """
        for one in self.before:
            one.make(preemption)
        self.check()
        if self.scores is None:
            for name in set(self.ablation.names_of_others) & STAND_INS.keys():
                write_once(name, self._weights(name))
            run(self.experiment, self.workdir, preemption)
        for name, measure in self.ablation.readings.items():
            if not self._reading(name).exists():
                write_json(self._reading(name), measure(self.workdir))

    def _weights(self, name: str) -> Path:
        return self.root / "weights" / name

    def _reading(self, name: str) -> Path:
        return self.workdir / f"{name}.json"


def read_if_there(file: Path) -> dict[str, Any] | None:
    """JSON of a file; None if there is none."""
    return json.loads(file.read_text()) if file.exists() else None


def _texts(config: dict[str, Any]) -> dict[str, str]:
    """Fields by dotted path, as JSON: a list that was read is the tuple that was written."""
    return {path: json.dumps(value) for path, value in flatten(config).items()}
