"""The runs that the page watches: the work folders it was given, and those right inside a given folder of runs.

A browser names a run by its place in this list, and never by a path.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from magicvideo_jax.serving.runs.run_reading import RunReader, is_work_folder

MOST_RUNS = 1000


class RunList:
    """Runs by their places, which stay; runs that begin while the page is open are appended."""

    def __init__(self, folders: Sequence[Path]):
        self._given = [folder.absolute() for folder in folders]
        self._readers: dict[Path, RunReader] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        """Look for new runs and name all: by their folders, with parents where two are called the same."""
        with self._lock:
            for folder in (run for given in self._given for run in _runs_of(given)):
                if folder not in self._readers and len(self._readers) < MOST_RUNS:
                    self._readers[folder] = RunReader(folder)
            return _short_names(list(self._readers))

    def reader(self, place: Any) -> RunReader | None:
        """The reader of the run at a place that a browser sent; None where there is no such place."""
        if type(place) is not int or place < 0:
            return None
        with self._lock:
            readers = list(self._readers.values())
        return readers[place] if place < len(readers) else None


def _runs_of(given: Path) -> list[Path]:
    """The given folder where it is, or becomes, a work folder; else the work folders right inside it."""
    if is_work_folder(given):
        return [given]
    try:
        inside = sorted(path for path in given.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    return [folder for folder in inside if is_work_folder(folder)]


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
