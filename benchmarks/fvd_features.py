"""I3D's features of clips for FVD: this project over cd-fvd on torch, side by side in one process.

    python benchmarks/fvd_features.py --cdfvd=CHECKOUT [--clips 256] [--size 64] [--threads 2] [--only ours]

CHECKOUT is a clone of https://github.com/songweige/content-debiased-fvd. Random weights, the same on both sides;
uint8 clips of 16 frames in, float32 logits out. Clips go in turns of 16: ours, theirs, ours, theirs; the ratios are of
all of them. --only runs one side alone, for its peak of memory. Prints one JSON line.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

arguments = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
arguments.add_argument("--cdfvd", required=True, type=Path)
arguments.add_argument("--clips", type=int, default=256)
arguments.add_argument("--size", type=int, default=64)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--only", choices=("ours", "theirs"))
asked = arguments.parse_args()

# Before either library makes its thread pool.
os.environ["OMP_NUM_THREADS"] = str(asked.threads)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
sys.path.insert(0, str(asked.cdfvd / "cdfvd" / "third_party"))

import numpy as np
import torch
from i3d.pytorch_i3d import InceptionI3d
from i3d.utils import load_i3d_model, preprocess_i3d

from magicvideo_jax.evaluation.feature_extractors import open_i3d
from magicvideo_jax.evaluation.protocols import PROTOCOLS

TURN = 16
"""Clips of a turn, cd-fvd's batch."""
Features = Callable[[np.ndarray], np.ndarray]


def random_weights(folder: Path) -> Path:
    """cd-fvd's network with random weights whose norms do something."""
    torch.manual_seed(0)
    state = InceptionI3d(400, in_channels=3).state_dict()
    for name, x in state.items():
        if name.endswith("running_mean"):
            state[name] = torch.rand_like(x) * 0.4 - 0.2
        elif name.endswith("running_var"):
            state[name] = torch.rand_like(x) + 0.2
    torch.save(state, folder / "i3d.pt")
    return folder / "i3d.pt"


def ours_of(weights: Path) -> Features:
    network = open_i3d(str(weights), PROTOCOLS["tats"], argument="--network=i3d")
    return lambda clips: network.extract(clips, ())[:, 0]


def theirs_of(weights: Path) -> Features:
    torch.set_num_threads(asked.threads)
    network = load_i3d_model(torch.device("cpu"), str(weights))

    def features(clips: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(preprocess_i3d(clips)).numpy()

    return features


def timed(features: Features, clips: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Features, seconds, and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = features(clips)
    return rows, time.perf_counter() - wall, time.process_time() - cpu


with tempfile.TemporaryDirectory() as folder:
    file = random_weights(Path(folder))
    sides = {"ours": ours_of, "theirs": theirs_of}
    opened = {name: open_(file) for name, open_ in sides.items() if asked.only in (None, name)}
rng = np.random.default_rng(0)
shape = (16, asked.size, asked.size, 3)
for features in opened.values():  # to warm up, and to compile
    features(rng.integers(0, 256, (4, *shape), np.uint8))
seconds = dict.fromkeys(opened, 0.0)
cpu_seconds = dict.fromkeys(opened, 0.0)
apart = 0.0
for _ in range(asked.clips // TURN):
    clips = rng.integers(0, 256, (TURN, *shape), np.uint8)
    rows = []
    for name, features in opened.items():
        made, wall, cpu = timed(features, clips)
        rows.append(made)
        seconds[name] += wall
        cpu_seconds[name] += cpu
    if len(rows) == 2:
        apart = max(apart, float(np.abs(rows[0] - rows[1]).max() / np.abs(rows[1]).max()))
found: dict[str, object] = {
    "benchmark": "fvd_features",
    "clips": asked.clips,
    "threads": asked.threads,
    "seconds": {name: round(one, 1) for name, one in seconds.items()},
    "cpu_seconds": {name: round(one, 1) for name, one in cpu_seconds.items()},
    "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
}
if asked.only is None:
    found |= {
        "ratio": round(seconds["ours"] / seconds["theirs"], 3),
        "cpu_ratio": round(cpu_seconds["ours"] / cpu_seconds["theirs"], 3),
        "largest_relative_difference": apart,
    }
print(json.dumps(found))
