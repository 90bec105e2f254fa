"""Clips that start from pictures and clips, measured on held-out drawn scenes.

python benchmarks/known_frames.py --workdir RUN [--interpolate RUN] [--clips 64] [--seed 2001]

RUN is a run of `configs/t2v.py:known_frames`, or the embedded video model. Lines of JSON: clips of pictures (PSNR of
the first frame, captions read back), clips that go on for 48 frames (shape and colour of the last 16; the step from
frame to frame where windows meet over that within them), edited clips (distance from the source by strength), and
interpolation (PSNR of inserted frames of drawn clips beside blending; captions read back from 16 and from 61 frames).
"""

import argparse
import json
from dataclasses import replace

import numpy as np

from magicvideo_jax.core.types import EditedClips, KnownFrames
from magicvideo_jax.data.drawn.shape_clips import draw_clip, held_out_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.inserted_frames import inserted_frames
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.experiment.cascade.frame_interpolation import load_interpolation
from magicvideo_jax.experiment.pipeline import load
from magicvideo_jax.experiment.requests.continuation import KNOWN_FRAMES, sample_onwards

LONG, STRENGTHS = 48, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    """Sample and print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="embedded_video")
    parser.add_argument("--interpolate", default="", help="a run of configs/interpolation.py")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2001, help="of the held-out scenes")
    parser.add_argument("--batch_size", type=int, default=8)
    asked = parser.parse_args()
    pipe, scenes = load(asked.workdir), held_out_scenes(asked.seed, asked.clips)
    frames, size = pipe.experiment.data.frames, pipe.experiment.data.size
    clips = np.stack([draw_clip(scene, frames=frames, size=size).pixels for scene in scenes])
    prompts, truths = [scene.caption for scene in scenes], [scene.truth for scene in scenes]
    common = {"fps": [scene.fps for scene in scenes], "batch_size": asked.batch_size}
    sample = pipe.experiment.sample

    def told(number: int) -> KnownFrames:
        return KnownFrames(clips, np.tile(np.arange(frames) < number, (len(clips), 1)))

    moving = pipe.many(prompts, sample, start=told(1), **common)
    say(
        "clips of pictures",
        psnr_of_first_frame=psnr(moving[:, :1], clips[:, :1]).mean(),
        **caption_accuracy(list(moving), truths),
    )

    long = sample_onwards(pipe, prompts, sample, told(KNOWN_FRAMES), frames=LONG, **common)
    steps = np.abs(np.diff(long.astype(float), axis=1)).mean(axis=(0, 2, 3, 4))
    seams = np.arange(frames - 1, LONG - 1, frames - KNOWN_FRAMES)
    last = caption_accuracy(list(long[:, -frames:]), truths)
    say(
        f"{LONG} frames",
        seams_over_others=steps[seams].mean() / np.delete(steps, seams).mean(),
        shape=last["shape"],
        colour=last["colour"],
    )

    other = prompts[1:] + prompts[:1]
    source = EditedClips(clips)
    distances = {}
    for strength in STRENGTHS:
        edited = pipe.many(other, replace(sample, strength=strength), start=source, **common)
        distances[f"{strength:g}"] = np.abs(edited.astype(float) - clips).mean()
    say("edited", distance_in_levels_by_strength=distances)

    if asked.interpolate:
        refiner = load_interpolation(asked.workdir, unet=asked.interpolate)
        quick = [replace(scene, fps=4 * scene.fps) for scene in scenes]
        drawn = np.stack([draw_clip(scene, frames=5, size=size).pixels for scene in quick])
        inserted = refiner.many(drawn[:, [0, 4]], prompts)
        say("interpolation", **inserted_frames(inserted, drawn))
        keyframes = pipe.many(prompts, sample, **common)
        say("16 frames", **caption_accuracy(list(keyframes), truths))
        say("61 frames", **caption_accuracy(list(refiner.many(keyframes, prompts)), truths))


def say(what: str, **numbers: object) -> None:
    """A line of JSON."""
    print(json.dumps({"what": what} | numbers, default=lambda x: round(float(x), 4)), flush=True)


if __name__ == "__main__":
    main()
