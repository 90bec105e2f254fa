"""Features of clips in files: computed once, and after an interruption only those that are missing.

A folder holds `features.json`, what the features depend on, and a file for every `CLIPS_PER_FILE` clips. A file depends
on its clips alone, and files are read in the order of the clips: moments are the same whichever host made which file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write, write_json
from magicvideo_jax.evaluation.feature_extractors import FeatureExtractor
from magicvideo_jax.experiment.comparison.clip_sets import ClipSet
from magicvideo_jax.runtime.progress import Progress

CLIPS_PER_FILE = 32
ABOUT = "features.json"


class Share(NamedTuple):
    """The part of the files that one of several processes computes: every `of`-th, from `first` on."""

    first: int = 0
    of: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class FeatureFiles:
    """A `FeatureSet` on disk."""

    folder: Path
    clips: int

    def __len__(self) -> int:
        return self.clips

    def batches(self) -> Iterator[Float[np.ndarray, "n rows d"]]:
        """Features of each file. Errors: `UserError` naming a file that is missing or broken."""
        for which in self.parts():
            yield self._read(which)

    def parts(self) -> list[range]:
        """Numbers of the clips of each file."""
        starts = range(0, self.clips, CLIPS_PER_FILE)
        return [range(i, min(i + CLIPS_PER_FILE, self.clips)) for i in starts]

    def has(self, which: range) -> bool:
        """Whether the features of these clips are there."""
        return self._file(which).is_file()

    def write(self, which: range, rows: Float[np.ndarray, "n rows d"]) -> None:
        """Keep features of some clips, as float32."""
        with atomic_write(self._file(which)) as aside, aside.open("wb") as file:
            np.save(file, rows.astype(np.float32), allow_pickle=False)

    def _read(self, which: range) -> Float[np.ndarray, "n rows d"]:
        file = self._file(which)
        try:
            rows = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{file}: cannot be read ({error}): remove it and evaluate again"
            ) from error
        if rows.ndim != 3 or len(rows) != len(which) or rows.dtype != np.float32:
            raise UserError(
                f"{file}: no features of {len(which)} clips: remove it and evaluate again"
            )
        return rows

    def _file(self, which: range) -> Path:
        return self.folder / f"clips_{which.start:06d}_{which.stop:06d}.npy"


def open_feature_files(folder: Path, about: Mapping[str, Any], clips: int) -> FeatureFiles:
    """Features that depend on what `about` says, inside of a folder that keeps many such."""
    text = json.dumps(about, sort_keys=True)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (place / ABOUT).is_file():
        write_json(place / ABOUT, json.loads(text))
    return FeatureFiles(place, clips)


def fill_feature_files(
    clip_set: ClipSet,
    wanted: Sequence[tuple[FeatureFiles, FeatureExtractor]],
    *,
    label: str,
    share: Share = WHOLE,
) -> bool:
    """Compute what is missing of the features of a set by several networks; clips are read or sampled once for all.

    Returns whether all files are there, which those of other processes may not be yet.
    """
    parts = wanted[0][0].parts() if wanted else []
    own = parts[share.first :: share.of]
    missing = [which for which in own if not all(files.has(which) for files, _ in wanted)]
    total = sum(map(len, own))
    start = total - sum(map(len, missing))
    with Progress(total, label, unit="clip", start=start) as progress:
        for which in missing:
            some = clip_set.read(which)
            for files, network in wanted:
                if not files.has(which):
                    files.write(which, network.extract(some.pixels, some.captions))
            progress.advance(len(which))
    return all(files.has(which) for files, _ in wanted for which in parts)
