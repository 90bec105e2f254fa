"""The metrics by name, as `config.evaluate.metrics` and `evaluate --metrics` give them.

A metric is a function of a `MetricInput`. It returns a number, several numbers by name, or None where it does not
apply: reconstruction metrics need a reference, caption accuracy needs drawn scenes, motion needs two frames. To add a
metric, write its function in a file of its own and list it in `METRICS`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.types import Clips
from magicvideo_jax.data.drawn.scene import Truth
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.clip_l1 import clip_l1
from magicvideo_jax.evaluation.difference_error import difference_error
from magicvideo_jax.evaluation.first_frame_error import first_frame_error
from magicvideo_jax.evaluation.inserted_frames import inserted_frames
from magicvideo_jax.evaluation.motion import motion_metrics
from magicvideo_jax.evaluation.perceptual_distance import lpips_per_clip
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.evaluation.sharpness import sharpness
from magicvideo_jax.evaluation.ssim import ssim
from magicvideo_jax.evaluation.temporal_spectrum import fast_error
from magicvideo_jax.evaluation.warped_error import warped_error
from magicvideo_jax.models.lpips import MIN_SIDE, has_lpips
from magicvideo_jax.runtime.progress import say

Scores = dict[str, float | dict[str, float]]
"""Metric values by name; a metric of several numbers has them by name in turn."""


@dataclass(frozen=True)
class MetricInput:
    """What there is to measure: clips of a model, and what they may be compared with."""

    samples: Clips
    reference: Clips | None = None
    """The clips that `samples` are reconstructions of, or that they know some frames of."""
    truths: Sequence[Truth] | None = None
    """What the caption of each clip says, where that is known: drawn shapes."""
    held_out_loss: Callable[[], dict[str, float]] | None = None
    """The denoising loss on held-out clips: its mean, and its mean in bins of diffusion time."""


Metric = Callable[[MetricInput], float | dict[str, float] | None]


def measure(names: Iterable[str], measured: MetricInput) -> Scores:
    """The named metrics in their order. Those that do not apply are left out."""
    scores: Scores = {}
    for name in names:
        value = METRICS[name](measured)
        if value is not None:
            scores[name] = value
    return scores


def metrics_table(scores: Scores) -> Iterable[str]:
    """Lines for a terminal."""
    for name, value in scores.items():
        if isinstance(value, dict):
            yield name
            yield from (f"  {part:<16} {number:8.3f}" for part, number in value.items())
        else:
            yield f"{name:<14} {value:8.3f}"


def _caption_accuracy(measured: MetricInput) -> dict[str, float] | None:
    if measured.truths is None:
        return None
    return caption_accuracy(list(measured.samples), measured.truths)


def _motion(measured: MetricInput) -> dict[str, float] | None:
    return dict(motion_metrics(measured.samples)) or None


def _inserted_frames(measured: MetricInput) -> dict[str, float] | None:
    if measured.reference is None or measured.samples.shape[1] < 3:
        return None
    return inserted_frames(measured.samples, measured.reference)


def _first_frame_error(measured: MetricInput) -> dict[str, float] | None:
    if measured.reference is None or measured.samples.shape[1] < 2:
        return None
    return first_frame_error(measured.samples, measured.reference)


def _held_out_loss(measured: MetricInput) -> dict[str, float] | None:
    return None if measured.held_out_loss is None else measured.held_out_loss()


def _lpips(measured: MetricInput) -> float | None:
    if measured.reference is None or min(measured.samples.shape[2:4]) < MIN_SIDE:
        return None
    if not has_lpips():
        say(
            "lpips is left out: its package is missing "
            "(pip install --no-deps -r requirements-metrics.txt)"
        )
        return None
    return float(lpips_per_clip(measured.samples, measured.reference).mean())


def _mean(per_clip: Callable[..., Float[np.ndarray, "b"]], *, least_frames: int = 1) -> Metric:
    """The mean over clips of a reconstruction metric, for clips of at least so many frames."""

    def metric(measured: MetricInput) -> float | None:
        if measured.reference is None or measured.samples.shape[1] < least_frames:
            return None
        return float(per_clip(measured.samples, measured.reference).mean())

    return metric


METRICS: dict[str, Metric] = {
    "caption_accuracy": _caption_accuracy,
    "motion": _motion,
    "sharpness": lambda measured: float(sharpness(measured.samples).mean()),
    "held_out_loss": _held_out_loss,
    "inserted_frames": _inserted_frames,
    "first_frame_error": _first_frame_error,
    "clip_l1": _mean(clip_l1),
    "psnr": _mean(psnr),
    "ssim": _mean(ssim),
    "lpips": _lpips,
    "difference_error": _mean(difference_error, least_frames=2),
    "warped_error": _mean(warped_error, least_frames=2),
    "fast_error": _mean(fast_error, least_frames=4),
}
