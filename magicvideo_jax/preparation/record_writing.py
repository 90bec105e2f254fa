"""Decoded clips to the records of shards."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from magicvideo_jax.core.files import atomic_write, write_json
from magicvideo_jax.data.records import Record, write_records
from magicvideo_jax.media.decoder_pool import DecodedClip, DecoderPool
from magicvideo_jax.preparation.clip_listing import Entry
from magicvideo_jax.preparation.shards import ClipSamplingConfig, Shard, job_of
from magicvideo_jax.runtime.progress import Progress


@dataclass(frozen=True)
class RecordFormat:
    """What the records of a data set keep of each clip."""

    fields_of: Callable[[UInt8[np.ndarray, "b t h w 3"], Sequence[Entry]], Sequence[dict[str, Any]]]
    """Fields of each record: `frames`, or `latents` and, if asked for, `text_states`."""
    features: tfds.features.FeaturesDict
    identities: dict[str, Any]
    """Fingerprints of the encoders whose latents and text states they are."""


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    sampling: ClipSamplingConfig,
    form: RecordFormat,
    *,
    decoders: DecoderPool,
    batch_size: int,
) -> None:
    """Write those of the shards that are not there yet; `batch_size` clips are encoded together."""
    missing = [shard for shard in shards if not shard.is_done(folder)]
    total, left = (sum(len(shard.entries) for shard in some) for some in (shards, missing))
    with Progress(total, "prepare", unit="clip", start=total - left) as progress:
        for shard in missing:
            report: dict[str, list[Any]] = {"used": [], "skipped": []}
            records = _records(shard, sampling, form, decoders, batch_size, report, progress)
            with atomic_write(shard.path(folder)) as aside:
                write_records(aside, records, form.features, named=shard.path(folder))
                # Before the shard itself has its name: a shard that is there has its report.
                write_json(shard.report(folder), report)


def _records(
    shard: Shard,
    sampling: ClipSamplingConfig,
    form: RecordFormat,
    decoders: DecoderPool,
    batch_size: int,
    report: dict[str, list[Any]],
    progress: Progress,
) -> Iterator[Record]:
    """Records of a shard's clips, in batches of equal size; `report` tells what became of each clip.

    Records keep the order of the clips but for those that wait for others of their size.
    """
    jobs = [job_of(entry, sampling) for entry in shard.entries]
    waiting: dict[int, list[tuple[Entry, DecodedClip]]] = {
        size: [] for size in range(len(sampling.sizes))
    }

    def encoded(size: int) -> Iterator[Record]:
        entries, clips = zip(*waiting[size], strict=True)
        fields = form.fields_of(np.stack([clip.frames for clip in clips]), entries)
        for (entry, clip), content in zip(waiting[size], fields, strict=True):
            yield {
                "name": entry.name,
                "captions": list(entry.captions),
                "fps": np.float32(clip.fps),
                **content,
            }
            report["used"].append(size)
        waiting[size].clear()

    for entry, result in zip(shard.entries, decoders.clips(jobs), strict=True):
        if isinstance(result, DecodedClip):
            size = sampling.sizes.index(result.size)
            waiting[size].append((entry, result))
            if len(waiting[size]) == batch_size:
                yield from encoded(size)
        else:
            report["skipped"].append({"video": entry.name, "reason": result.reason})
        progress.advance(1, f"skipped {len(report['skipped'])}" if report["skipped"] else "")
    for size, rest in waiting.items():
        if rest:
            yield from encoded(size)
