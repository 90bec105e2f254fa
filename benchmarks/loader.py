"""Clips a second that the loader alone delivers, and what opening a set of a million records takes.

    python benchmarks/loader.py [--workdir runs/demo] [--clips 512] [--seconds 5] [--records 1000000]

Sets like `prepare` writes them, of noise: 16 frames of 8 x 8 x 8 latents, and as many PNG files of 64 x 64. With
--workdir, the deliveries over what a run's steps consumed, and the share of time in which those waited for data. The
million is opened, and a hundred of it read, in a process of its own. Prints one JSON line.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from magicvideo_jax.data.loader import Loader, stream
from magicvideo_jax.data.record_examples import FromRecord
from magicvideo_jax.data.records import (
    TRAIN,
    Record,
    frame_features,
    latent_features,
    open_records,
    shard_path,
    to_png,
    write_metadata,
    write_records,
)
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.opening.initial_weights import EMBEDDED
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.training.metrics_log import read_lines

FRAMES, BATCH, SHARDS = 16, 4, 64
OPEN = """
import psutil, sys, time
from magicvideo_jax.data.records import open_records
began = time.perf_counter()
records = open_records(sys.argv[1])
length = len(records)
assert all(records[i]["fps"] for i in range(0, length, length // 100))
took = time.perf_counter() - began
print(length, took, psutil.Process().memory_info().rss / 2**20)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--records", type=int, default=1_000_000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)

    def latents() -> dict[str, Any]:
        return {"latents": rng.standard_normal((FRAMES, 8, 8, 16), np.float32).astype(np.float16)}

    def frames() -> dict[str, Any]:
        return {"frames": to_png(rng.integers(256, size=(FRAMES, 64, 64, 3), dtype=np.uint8))}

    found: dict[str, Any] = {"benchmark": "loader"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, features, content in (
            ("latents", latent_features((FRAMES, 8, 8, 16)), latents),
            ("frames", frame_features(), frames),
        ):
            write_set(
                folder / name, features, [(record(i) | content() for i in range(asked.clips))]
            )
        for name in ("latents", "frames"):
            for workers in (0, 1):
                found[f"{name}_workers_{workers}"] = round(
                    delivered(folder / name, workers, asked.seconds), 1
                )
        found |= opened(folder / "million", asked.records)
    if asked.workdir is not None:
        found |= consumed(asked.workdir, found["latents_workers_0"])
    print(json.dumps(found))


def write_set(folder: Path, features: Any, shards: Sequence[Iterable[Record]]) -> None:
    folder.mkdir()
    lengths = [
        write_records(shard_path(folder, TRAIN, i, len(shards)), records, features)
        for i, records in enumerate(shards)
    ]
    write_metadata(folder, features, {TRAIN: lengths}, "noise")


def record(i: int) -> dict[str, Any]:
    return {"name": f"{i}.mp4", "captions": [f"clip {i}", "a clip"], "fps": np.float32(8)}


def delivered(folder: Path, workers: int, for_seconds: float) -> float:
    """Clips a second, on their device, after the first batches."""
    tokenizer = CaptionTokenizer(EMBEDDED["embedded"] / "tokenizer", length=24)
    examples = stream(open_records(folder), prepare=FromRecord(FRAMES, 1.0, tokenizer), seed=0)
    loader = Loader(examples, batch_size=BATCH, mesh=make_mesh(MeshConfig()), workers=workers)
    for _ in range(20):
        next(loader)
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < for_seconds:
        jax.block_until_ready(next(loader))
        number += BATCH
    return number / (time.perf_counter() - began)


def opened(folder: Path, number: int) -> dict[str, float]:
    """Seconds, and MB in all, of a process that opens a set of so many small records and reads some from everywhere."""
    features = tfds.features.FeaturesDict({"fps": np.float32})
    small: Record = {"fps": np.float32(8)}
    write_set(folder, features, [itertools.repeat(small, number // SHARDS) for _ in range(SHARDS)])
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder)], check=True, capture_output=True, text=True
    )
    length, took, memory = done.stdout.split()
    return {
        "records": int(length),
        "open_seconds": round(float(took), 2),
        "open_mb": round(float(memory)),
    }


def consumed(workdir: Path, delivery: float) -> dict[str, float]:
    """Clips a second of a run's steps, without the first report, which compiles."""
    lines = read_lines(workdir / "metrics.jsonl")[1:]
    steps = float(np.median([line["clips_per_second"] for line in lines]))
    waited = float(np.mean([line["data_wait_share"] for line in lines]))
    return {
        "run_clips_per_second": round(steps, 1),
        "deliveries_over_that": round(delivery / steps, 1),
        "run_data_wait_share": round(waited, 4),
    }


if __name__ == "__main__":
    main()
