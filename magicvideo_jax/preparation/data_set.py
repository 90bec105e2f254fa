"""Clips and captions to a data set: what goes into which shard, and the making of each.

A clip's place follows from its name, and every draw about it from its name and the seed: any number of processes, at
any time, again after any kill, end with the same bytes.

    DIR/prepare.json                                   what the set is made with
    DIR/clips-train.array_record-00000-of-00004 ..     records (data/records.py)
    DIR/shards/train-00000.json ..                     how many, and what became of the rest
    DIR/skipped.jsonl                                  every clip that is not in the set, and why
    DIR/sizes.json                                     of a set of several sizes, which of them each record has
    DIR/dataset_info.json, features.json               there once all shards are: DIR is then a TFDS data set
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write, write_json
from magicvideo_jax.data.records import (
    METADATA,
    SETTINGS,
    SIZES,
    TRAIN,
    VALIDATION,
    Record,
    shard_path,
    write_metadata,
    write_records,
)
from magicvideo_jax.media.decoder_pool import DecodedClip, DecodeJob, DecoderPool
from magicvideo_jax.media.frame_reader import FrameSize
from magicvideo_jax.preparation.clip_listing import Entry
from magicvideo_jax.runtime.progress import Progress

Content = Callable[[UInt8[np.ndarray, "b t h w 3"], Sequence[Entry]], Sequence[dict[str, Any]]]
"""What a record keeps of each of some clips: `frames`, or `latents` and, if asked for, `text_states`."""


@dataclass(frozen=True)
class ClipSamplingConfig:
    """How clips are looked at; part of what the set is."""

    frames: int = 16
    sizes: tuple[FrameSize, ...] = ((64, 64),)
    """Of several each clip has the one whose proportions are nearest to its own."""
    fps: tuple[float, float] = (1.0, 24.0)
    seed: int = 0
    validation: float = 0.05
    """Share of the clips that is kept for evaluation, chosen by a hash of the name."""
    per_shard: int = 256


@dataclass(frozen=True)
class Shard:
    """Clips that are decoded together and end in one file."""

    split: str
    number: int
    of: int
    entries: tuple[Entry, ...]

    def path(self, folder: Path) -> Path:
        return shard_path(folder, self.split, self.number, self.of)

    def report(self, folder: Path) -> Path:
        return folder / "shards" / f"{self.split}-{self.number:05d}.json"

    def is_done(self, folder: Path) -> bool:
        return self.path(folder).is_file() and self.report(folder).is_file()


def split_of(name: str, share: float) -> str:
    """The same for a name in every set."""
    return VALIDATION if _hash(name, "split") / 2**64 < share else TRAIN


def shards_of(entries: Sequence[Entry], look: ClipSamplingConfig) -> list[Shard]:
    """All shards of a set; a split without clips has none."""
    shards = []
    for split in (TRAIN, VALIDATION):
        chosen = [entry for entry in entries if split_of(entry.name, look.validation) == split]
        parts = [
            tuple(chosen[i : i + look.per_shard]) for i in range(0, len(chosen), look.per_shard)
        ]
        shards += [Shard(split, i, len(parts), part) for i, part in enumerate(parts)]
    return shards


def job_of(entry: Entry, look: ClipSamplingConfig) -> DecodeJob:
    """A clip's look: which moments are taken follows from the seed and its name."""
    return DecodeJob(
        path=entry.path,
        seed=(look.seed, _hash(entry.name, "moments")),
        frames=look.frames,
        sizes=look.sizes,
        fps_range=look.fps,
    )


def reports(folder: Path, shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """What became of the clips of finished shards: `used`, the size of each record by its number in `Look.sizes`, and
    `skipped`, each `video` with its `reason`."""
    return [json.loads(shard.report(folder).read_text()) for shard in shards]


def begin_data_set(folder: Path, settings: dict[str, Any]) -> None:
    """Keeps what the set is made with. Errors: a set, begun or done, that was made with something else; any other
    content."""
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        if folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise UserError(
                f"--out={folder}: there is something else in this folder: give a new one"
            )
        write_json(path, settings)
        return
    try:
        there = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a new --out") from error
    differs = [name for name in settings if there.get(name) != settings[name]]
    if differs:
        raise UserError(
            f"--out={folder} was begun with another {', '.join(differs)}: give a new --out, or the same"
        )


def make_shards(
    folder: Path,
    shards: Sequence[Shard],
    look: ClipSamplingConfig,
    content: Content,
    features: tfds.features.FeaturesDict,
    *,
    decoders: DecoderPool,
    at_once: int,
    part: tuple[int, int] = (0, 1),
) -> bool:
    """Makes those shards of a part (i of n) that are not there yet, and then, where none is missing, the set. Says
    whether it is whole."""
    mine = shards[part[0] :: part[1]]
    missing = [shard for shard in mine if not shard.is_done(folder)]
    total, left = (sum(len(shard.entries) for shard in some) for some in (mine, missing))
    with Progress(total, "prepare", unit="clip", start=total - left) as progress:
        for shard in missing:
            report: dict[str, list[Any]] = {"used": [], "skipped": []}
            records = _records(shard, look, content, decoders, at_once, report, progress)
            with atomic_write(shard.path(folder)) as aside:
                write_records(aside, records, features)
                # Before the shard itself has its name: a shard that is there has its report.
                write_json(shard.report(folder), report)
    if not all(shard.is_done(folder) for shard in shards):
        return False
    _finish(folder, shards, features, sizes=len(look.sizes))
    return True


def is_complete(folder: Path, shards: Sequence[Shard]) -> bool:
    """Whether `make_shards` has done all of it, in whichever process."""
    return all(shard.is_done(folder) for shard in shards) and (folder / METADATA).is_file()


def _records(
    shard: Shard,
    look: ClipSamplingConfig,
    content: Content,
    decoders: DecoderPool,
    at_once: int,
    report: dict[str, list[Any]],
    progress: Progress,
) -> Iterator[Record]:
    """Of a shard's clips, in their order but for those that wait for others of their size; what became of each is
    added to the report."""
    jobs = [job_of(entry, look) for entry in shard.entries]
    waiting: dict[int, list[tuple[Entry, DecodedClip]]] = {
        size: [] for size in range(len(look.sizes))
    }

    def made(size: int) -> Iterator[Record]:
        entries, clips = zip(*waiting[size], strict=True)
        kept = content(np.stack([decoded.frames for decoded in clips]), entries)
        for (entry, decoded), fields in zip(waiting[size], kept, strict=True):
            yield {
                "name": entry.name,
                "captions": list(entry.captions),
                "fps": np.float32(decoded.fps),
                **fields,
            }
            report["used"].append(size)
        waiting[size].clear()

    for entry, result in zip(shard.entries, decoders.clips(jobs), strict=True):
        if isinstance(result, DecodedClip):
            size = look.sizes.index(result.size)
            waiting[size].append((entry, result))
            if len(waiting[size]) == at_once:
                yield from made(size)
        else:
            report["skipped"].append({"video": entry.name, "reason": result.reason})
        progress.advance(1, f"skipped {len(report['skipped'])}" if report["skipped"] else "")
    for size, left in waiting.items():
        if left:
            yield from made(size)


def _finish(
    folder: Path, shards: Sequence[Shard], features: tfds.features.FeaturesDict, *, sizes: int
) -> None:
    """The list of what was skipped, and what makes the folder a data set. Several processes may do this: each writes
    the same."""
    found = reports(folder, shards)
    lengths: dict[str, list[int]] = {}
    which: dict[str, list[int]] = {}
    for shard, report in zip(shards, found, strict=True):
        lengths.setdefault(shard.split, []).append(len(report["used"]))
        which.setdefault(shard.split, []).extend(report["used"])
    if sizes > 1:
        with atomic_write(folder / SIZES) as aside:
            aside.write_text(json.dumps(which))
    for left in [*folder.glob(".clips-*.part"), *(folder / "shards").glob(".*.part")]:
        left.unlink(missing_ok=True)  # of processes that were killed
    with atomic_write(folder / "skipped.jsonl") as aside:
        aside.write_text(
            "".join(json.dumps(line) + "\n" for report in found for line in report["skipped"])
        )
    write_metadata(folder, features, lengths, "Clips prepared by magicvideo_jax.")


def _hash(name: str, purpose: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{name}".encode()).digest()[:8], "big")
