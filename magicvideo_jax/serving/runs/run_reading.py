"""A work folder as data for people who watch its run: state, curves, previews, scores, settings.

The run writes meanwhile, and the folder may be moved or deleted: what cannot be read is absent, and never an error.
A file is opened only where it lies in its folder with all links resolved, and only up to a size.
"""

import json
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment.config import RENAMED, Experiment
from magicvideo_jax.runtime.run_lock import is_locked
from magicvideo_jax.serving.runs.metric_curves import Curve, MetricsReader

SECONDS_A_READING = 0.5
"""The time that one look at a run may read its metrics; a long file is read in several."""
MOST_PREVIEWS = 1000
_PREVIEW = re.compile(r"step_(\d{1,12})\.png")
_MOST_BYTES = 32 * 2**20
_SILENT_AFTER = 300.0
"""Seconds without a report after which a run on another machine counts as stopped."""


class RunState(Enum):
    """What a run is doing, in the words of the page."""

    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    STOPPED = "stopped"
    FINISHED = "finished"
    GONE = "no longer there"


@dataclass(frozen=True)
class RunSnapshot:
    """A run at one moment."""

    state: RunState
    step: int
    """Step of the last report; 0 before the first."""
    steps: int | None
    """Steps that the run was asked to train."""
    steps_per_second: float | None
    silent_seconds: float | None
    """Time since the last report."""
    latest: Mapping[str, float]
    """The last report."""
    curves: Mapping[str, Curve]
    unread: float
    """The share of metrics.jsonl that later looks will read."""
    previews: tuple[int, ...]
    """Steps that have a contact sheet, in order."""
    preview_every: int | None
    scores: Mapping[str, Any]
    """metrics.json, flat."""
    changed: Mapping[str, tuple[Any, Any]]
    """The default and the run's value of each setting that differs, by its path in the config."""

    @property
    def is_active(self) -> bool:
        return self.state in (RunState.STARTING, RunState.TRAINING, RunState.EVALUATING)

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step at the rate of the last reports; previews and saves come on top."""
        if self.state is not RunState.TRAINING or not self.steps or not self.steps_per_second:
            return None
        return max(self.steps - self.step, 0) / self.steps_per_second


class RunReader:
    """Reads one work folder again and again; safe to use from several threads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._metrics = MetricsReader(folder / "metrics.jsonl")
        self._lock = Lock()

    def look(self) -> RunSnapshot:
        """Read what is new."""
        with self._lock:
            return self._look()

    def preview(self, step: int, kind: str = "png") -> bytes | None:
        """A preview's contact sheet, or with `kind="mp4"` its clip; None where there is none."""
        return read_inside(self.folder, f"previews/step_{step:06d}.{kind}")

    def _look(self) -> RunSnapshot:
        metrics, log = self._metrics, find_inside(self.folder, "metrics.jsonl")
        if log is not None:
            metrics.read_on(SECONDS_A_READING)
        config = _mapping(self._json("config.json"))
        train = _mapping(config.get("train"))
        steps, batch = _count(train.get("steps")), _count(train.get("batch_size"))
        scores = self._json("metrics.json")
        latest = metrics.recent[-1] if metrics.recent else {}
        step = int(latest.get("step", 0))
        silent = _seconds_since_change(log)
        speeds = [line["clips_per_second"] for line in metrics.recent if "clips_per_second" in line]
        return RunSnapshot(
            state=self._state(step, steps, silent, is_scored=isinstance(scores, dict)),
            step=step,
            steps=steps,
            steps_per_second=sum(speeds) / len(speeds) / batch if speeds and batch else None,
            silent_seconds=silent,
            latest=latest,
            curves=metrics.curves(),
            unread=metrics.unread,
            previews=self._previews(),
            preview_every=_count(train.get("preview_every")),
            scores=flatten(_mapping(scores)),
            changed=_changed(_mapping(self._requested() or config)),
        )

    def _state(
        self, step: int, steps: int | None, silent: float | None, *, is_scored: bool
    ) -> RunState:
        if not self.folder.is_dir():
            return RunState.GONE
        is_held = is_locked(self.folder)
        if is_held is None:
            is_held = silent is not None and silent < _SILENT_AFTER and not is_scored
        has_all = steps is not None and step >= steps
        if is_held:
            if has_all:
                return RunState.EVALUATING
            return RunState.TRAINING if step else RunState.STARTING
        return RunState.FINISHED if has_all and is_scored else RunState.STOPPED

    def _previews(self) -> tuple[int, ...]:
        try:
            names = [path.name for path in (self.folder / "previews").iterdir()]
        except OSError:
            return ()
        found = sorted(int(match[1]) for name in names if (match := _PREVIEW.fullmatch(name)))
        return tuple(found[-MOST_PREVIEWS:])

    def _requested(self) -> Any:
        """The config as the command gave it: that of config.json holds the numbers of the weights, too."""
        return _mapping(self._json("requested.json")).get("config")

    def _json(self, name: str) -> Any:
        content = read_inside(self.folder, name)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return None


def is_work_folder(folder: Path) -> bool:
    """Whether a run writes, or wrote, there."""
    return any(
        find_inside(folder, name) is not None
        for name in ("config.json", "metrics.jsonl", "run.lock")
    )


def find_inside(folder: Path, name: str) -> Path | None:
    """The regular file `name` of `folder`, unless a link leads it out of there."""
    try:
        path = (folder / name).resolve(strict=True)
        is_inside = path.is_relative_to(folder.resolve(strict=True))
        return path if is_inside and stat.S_ISREG(path.stat().st_mode) else None
    except (OSError, RuntimeError, ValueError):  # missing; links in a circle; a NUL in the name
        return None


def read_inside(folder: Path, name: str) -> bytes | None:
    """The bytes of a file of `folder` (`find_inside`); None for one of over 32 MiB, too."""
    path = find_inside(folder, name)
    try:
        if path is None or path.stat().st_size > _MOST_BYTES:
            return None
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return None


def _changed(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a run that differ from the defaults of `Experiment`."""
    defaults = json.loads(json.dumps(flatten(to_plain(Experiment()))))
    given = {RENAMED.get(path, path): value for path, value in flatten(config).items()}
    return {
        path: (defaults.get(path), value)
        for path, value in given.items()
        if value != defaults.get(path)
    }


def _mapping(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _seconds_since_change(path: Path | None) -> float | None:
    try:
        return None if path is None else max(time.time() - path.stat().st_mtime, 0.0)
    except OSError:
        return None
