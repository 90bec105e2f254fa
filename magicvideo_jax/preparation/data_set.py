"""The folder of a data set while `prepare` fills it: how it begins, and what completes it.

    DIR/prepare.json                                   settings of the data set
    DIR/clips-train.array_record-00000-of-00004 ..     records (data/records.py)
    DIR/shards/train-00000.json ..                     per shard: sizes of used clips, skipped clips
    DIR/skipped.jsonl                                  every clip that is not in the set, and why
    DIR/sizes.json                                     of several sizes, which of them each record has
    DIR/dataset_info.json, features.json               written last: DIR is then a TFDS data set

Every file appears whole or not at all, and every draw follows from names and the seed: any number
of processes, again after any kill, end with the same bytes.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write, write_json
from magicvideo_jax.data.records import (
    METADATA,
    SETTINGS,
    SIZES,
    TRAIN,
    write_metadata,
)
from magicvideo_jax.preparation.shards import Shard

SKIPPED = "skipped.jsonl"


def begin_data_set(folder: Path, settings: dict[str, Any]) -> None:
    """Store the settings of a new data set, or compare them with those of one that was begun.

    Errors: `UserError` for a set with other settings, and for a folder that holds anything else.
    """
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        is_empty = not folder.is_dir() or all(
            file.name.startswith(".") for file in folder.iterdir()
        )
        # Asked again: a process that shares the work may have begun the set in between.
        if is_empty:
            write_json(path, settings)
        elif not path.is_file():
            raise UserError(f"--out={folder}: this folder is not empty: give a new one")
    try:
        begun = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a new --out") from error
    differs = [name for name in settings if begun.get(name) != settings[name]]
    if differs:
        raise UserError(
            f"--out={folder} was begun with another {', '.join(differs)}: "
            "give a new --out, or the same"
        )


def are_done(folder: Path, shards: Sequence[Shard]) -> bool:
    """Whether all shards are written, by whichever process."""
    return all(shard.is_done(folder) for shard in shards)


def is_complete(folder: Path, shards: Sequence[Shard]) -> bool:
    """Whether the folder is a data set of these shards."""
    return are_done(folder, shards) and (folder / METADATA).is_file()


def reports(folder: Path, shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Fate of the clips of finished shards.

    `used` has the size of each record, as an index into `ClipSamplingConfig.sizes`; `skipped` has
    objects with `video` and `reason`.
    """
    return [json.loads(shard.report(folder).read_text()) for shard in shards]


def complete_data_set(
    folder: Path, shards: Sequence[Shard], features: tfds.features.FeaturesDict, *, sizes: int
) -> None:
    """Write what makes finished shards a data set; several processes may: each writes the same.

    Errors: `UserError` where no clip could be used, or none for training; the folder is emptied.
    """
    found = reports(folder, shards)
    lengths: dict[str, list[int]] = {}
    which: dict[str, list[int]] = {}
    for shard, report in zip(shards, found, strict=True):
        lengths.setdefault(shard.split, []).append(len(report["used"]))
        which.setdefault(shard.split, []).extend(report["used"])
    if not which.get(TRAIN):
        _discard(folder, shards)
        raise UserError(_why_empty(found, used=sum(map(len, which.values()))))
    if sizes > 1:
        with atomic_write(folder / SIZES) as aside:
            aside.write_text(json.dumps(which))
    # Left by processes that were killed.
    for left in [*folder.glob(".clips-*.part"), *(folder / "shards").glob(".*.part")]:
        left.unlink(missing_ok=True)
    with atomic_write(folder / SKIPPED) as aside:
        aside.write_text(
            "".join(json.dumps(line) + "\n" for report in found for line in report["skipped"])
        )
    # TFDS cannot open a split without records: it is left out.
    lengths = {split: counts for split, counts in lengths.items() if any(counts)}
    write_metadata(folder, features, lengths, "Clips prepared by magicvideo_jax.")


def _why_empty(found: Sequence[dict[str, Any]], *, used: int) -> str:
    skipped = [line for report in found for line in report["skipped"]]
    if used:
        return (
            f"--validation: all {used} usable clips fall to the validation split and none is left "
            "for training: give a smaller fraction, such as 0"
        )
    reasons = Counter(line["reason"] for line in skipped).most_common(3)
    return (
        f"--videos: none of {len(skipped)} clips can be used, so no data set is written: "
        + "; ".join(f"{reason} ({count})" for reason, count in reasons)
    )


def _discard(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what `prepare` wrote, so that the same --out can be given again."""
    files = [path for shard in shards for path in (shard.path(folder), shard.report(folder))]
    for file in (*files, folder / SETTINGS):
        file.unlink(missing_ok=True)
    for place in (folder / "shards", folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
