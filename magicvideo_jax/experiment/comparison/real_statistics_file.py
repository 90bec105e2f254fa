"""Statistics of a real set in a file, with what they depend on: a team computes them once and passes the file on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write
from magicvideo_jax.evaluation.feature_metrics import RealStatistics
from magicvideo_jax.evaluation.frechet import FeatureMoments

ABOUT, WORDS = "statistics", "real"
"""Entries of the file's metadata: JSON by the name of a metric, and the set in words."""


def save_real_statistics(
    path: Path,
    statistics: Mapping[str, RealStatistics],
    about: Mapping[str, Mapping[str, Any]],
    words: str,
) -> None:
    """Write statistics and what they depend on, by the name of their metric, and the set in words."""
    arrays, said = {}, {}
    for name, one in statistics.items():
        arrays |= {f"{name}.mean": one.moments.mean, f"{name}.scatter": one.moments.scatter}
        numbers = {"clips": one.clips, "rows": one.moments.number, "floor": one.floor}
        said[name] = {"about": dict(about[name]), **numbers}
    with atomic_write(path) as aside:
        save_file(arrays, aside, metadata={ABOUT: json.dumps(said), WORDS: words})


def read_real_statistics(
    path: Path, name: str, about: Mapping[str, Any]
) -> tuple[RealStatistics, str]:
    """Statistics of a metric, and words for the set that they are of.

    Errors: `UserError` for a file of another kind, and for statistics that depend on something else than `about` says,
    naming each field that differs.
    """
    where = f"--real_stats={path}"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            said = json.loads(metadata[ABOUT])
            if name not in said:
                raise UserError(f"{where}: no statistics of {name}: it has {', '.join(said)}")
            mean, scatter = file.get_tensor(f"{name}.mean"), file.get_tensor(f"{name}.scatter")
        there, known = said[name], said[name]["about"]
        moments = FeatureMoments(int(there["rows"]), mean, scatter)
        statistics = RealStatistics(int(there["clips"]), moments, float(there["floor"]))
        if mean.ndim != 1 or scatter.shape != mean.shape * 2:
            raise ValueError(f"shapes {mean.shape} and {scatter.shape}")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: no file of --write_real_stats ({error})") from error
    different = [
        f"{field} {known.get(field)} instead of {about.get(field)}"
        for field in sorted(about.keys() | known.keys())
        if known.get(field) != about.get(field)
    ]
    if different:
        raise UserError(
            f"{where}: statistics of another {', '.join(different)}: write them anew with --real"
        )
    return statistics, metadata.get(WORDS, "a set without a name")
