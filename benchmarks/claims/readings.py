"""Measurements of a finished run beside its own scores: speeds asked for and shown, and another decoder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.claims.ablation import REPORTED_SCENES
from magicvideo_jax.core.types import Clip
from magicvideo_jax.data.drawn.scene import FPS, HEADING
from magicvideo_jax.data.drawn.shape_clips import held_out_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.drawn_reading import measure_moments, segment_shape
from magicvideo_jax.evaluation.motion import motion_metrics
from magicvideo_jax.experiment.pipeline import load

STRAIGHT_CLIPS = 16
"""Captions of straight motion, each sampled at every frame rate."""


def asked_speed(workdir: str | Path) -> dict[str, float]:
    """Correlation of the speed of sampled shapes, in pixels a frame, with the one that the frame rate asks for.

    Drawn shapes move by equally many pixels a second, thus by as many a frame as 1 / fps says. `slow_over_fast` is
    the mean speed at the lowest rate over that at the highest; obeyed exactly, it is the ratio of the rates.
    """
    pipe = load(workdir)
    every = held_out_scenes(REPORTED_SCENES, 8 * STRAIGHT_CLIPS)
    scenes = [scene for scene in every if scene.truth.motion in HEADING][:STRAIGHT_CLIPS]
    pairs = [(scene.caption, float(fps)) for fps in FPS for scene in scenes]
    clips = pipe.many(
        [caption for caption, _ in pairs],
        pipe.experiment.sample,
        fps=[fps for _, fps in pairs],
        seed=REPORTED_SCENES,
        batch_size=pipe.experiment.evaluate.batch_size,
    )
    return speed_by_rate(clips, [fps for _, fps in pairs])


def speed_by_rate(clips: Iterable[Clip], rates: Sequence[float]) -> dict[str, float]:
    """The same of clips and the frame rates that they were asked for. Empty clips are left out."""
    seen = [
        (fps, v) for fps, clip in zip(rates, clips, strict=True) if (v := speed(clip)) is not None
    ]
    fps, pixels = np.array(seen).reshape(-1, 2).T
    slowest, fastest = (pixels[fps == rate] for rate in (min(rates), max(rates)))
    if min(len(slowest), len(fastest)) == 0 or np.std(pixels) == 0:
        return {"clips": float(len(seen))}
    return {
        "clips": float(len(seen)),
        "correlation": float(np.corrcoef(1 / fps, pixels)[0, 1]),
        "slow_over_fast": float(slowest.mean() / fastest.mean()),
    }


def speed(clip: Clip) -> float | None:
    """Speed of the shape's centre in pixels of a canvas 64 wide per frame, by a straight line through its path; None
    for a clip without a shape."""
    covered = segment_shape(clip)
    if covered is None:
        return None
    moments = measure_moments(covered)
    is_visible = moments.area > 0.05 * np.max(moments.area)
    frames = np.arange(len(clip))[is_visible]
    if len(frames) < 3:
        return None
    path = np.stack([moments.x, moments.y], axis=1)[is_visible]
    return float(np.hypot(*np.polyfit(frames, path, 1)[0]))


def image_decoder(workdir: Path) -> dict[str, float]:
    """Caption accuracy, motion and flicker of the samples that the run was scored with, decoded frame by frame by the
    image VAE in place of the VideoVAE."""
    pipe = load(workdir, vae="embedded")
    evaluate = pipe.experiment.evaluate
    scenes = held_out_scenes(evaluate.seed, evaluate.clips, pipe.experiment.data.motions)
    clips = pipe.many(
        [scene.caption for scene in scenes],
        pipe.experiment.sample,
        fps=[scene.fps for scene in scenes],
        seed=evaluate.seed,
        batch_size=evaluate.batch_size,
    )
    accuracy = caption_accuracy(list(clips), [scene.truth for scene in scenes])
    measured = dict(motion_metrics(clips))
    return accuracy | {"flicker": measured["flicker"]}
