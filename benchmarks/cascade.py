"""A cascade against its parts: the whole command and each stage alone, timed in turns in one process.

python benchmarks/cascade.py --interpolate RUN --upscale RUN [--workdir RUN] [--clips 4] [--steps N] [--out FOLDER]

Prompts are those of held-out drawn scenes. The first clip compiles and is not counted. A line of JSON: median seconds
of the whole with and without its files (mp4, stages kept), of each stage, their sum, and the most memory of this
process. The whole without files has nothing to do beside its stages; with `--frames` a clip has more keyframes, whose
memory may be compared: that of the process hardly grows.
"""

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np

from magicvideo_jax.data.drawn.shape_clips import held_out_scenes
from magicvideo_jax.experiment.requests.cascade_run import Cascade, run_cascade
from magicvideo_jax.experiment.requests.clip_making import (
    load_model,
    open_refiners,
    refine_clips,
    sample_clips,
)
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, ModelRequest


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="embedded_video")
    parser.add_argument("--interpolate", default="", help="a run of configs/interpolation.py")
    parser.add_argument("--upscale", default="", help="a run of configs/super_resolution.py")
    parser.add_argument("--upscale_tile", type=int, help="as of `sample`")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, help="keyframes (default: the model's)")
    parser.add_argument("--steps", type=int, help="of each network (default: as each says)")
    parser.add_argument("--seed", type=int, default=2001, help="of the held-out scenes")
    parser.add_argument("--out", default="", help="folder for the clips (default: none is left)")
    asked = parser.parse_args()
    model = ModelRequest(
        asked.workdir,
        interpolate=asked.interpolate,
        upscale=asked.upscale,
        upscale_tile=asked.upscale_tile,
    )
    cascade: Cascade = (load_model(model), *open_refiners(model))
    usual = ClipRequest("a", frames=asked.frames, steps=asked.steps)
    scenes = held_out_scenes(asked.seed, asked.clips + 1)
    requests = [replace(usual, prompt=scene.caption) for scene in scenes]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, request in enumerate(requests):
            took = timed_stages(cascade, request)
            took["sum"] = sum(took.values())
            out = f"{asked.out or folder}/{number}"
            took["whole"] = timed_whole(cascade, request)
            files = {"keep": out, "out": [f"{out}/clip.mp4"]}
            took["with files"] = timed_whole(cascade, request, **files)
            for name, one in took.items():
                times.setdefault(name, []).append(one)
    medians = {name: float(np.median(all_times[1:])) for name, all_times in times.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    row: dict[str, Any] = {"clips": asked.clips, "seconds": medians, "MiB of this process": memory}
    print(json.dumps(row, default=lambda x: round(float(x), 3)))


def timed_stages(cascade: Cascade, request: ClipRequest) -> dict[str, float]:
    """Seconds of each stage by itself, by what comes of it. Like in a cascade, each begins with loading its weights."""
    pipe, *refiners = cascade
    began = time.monotonic()
    clips = sample_clips(pipe, request)
    pipe.release()
    took = {pipe.result: time.monotonic() - began}
    for refiner in refiners:
        began = time.monotonic()
        clips = refine_clips(clips, request, refiner)
        refiner.release()
        took[refiner.result] = time.monotonic() - began
    return took


def timed_whole(cascade: Cascade, request: ClipRequest, **files: Any) -> float:
    """Seconds of the cascade as `sample` runs it."""
    began = time.monotonic()
    for clips in run_cascade(cascade, [request], **files):
        clips.read()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
