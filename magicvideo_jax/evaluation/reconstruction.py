"""How well does a decoder bring held-out clips back, and does it flicker? All measures of it, as a table of decoders.

Pixels: psnr (dB), ssim, lpips. Flicker: difference_error and warped_error (levels of 255), fast_error (share of the
error's power above half the Nyquist frequency). Of ssim and psnr more is better, of all others less.
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

_SHORTEST = {
    psnr: 1,
    ssim: 1,
    lpips_per_clip: 1,
    difference_error: 2,
    warped_error: 2,
    fast_error: 4,
}

_log = logging.getLogger(__name__)


def reconstruction_metrics(
    made: Iterable[Clips], true: Iterable[Clips]
) -> Iterator[tuple[str, float]]:
    """Yields `(name, mean over all clips)`. Measures that a clip is too short or too small for, and LPIPS where its
    package is missing, are left out."""
    if not has_lpips():
        _log.warning(
            "no LPIPS: its package is missing (pip install --no-deps -r requirements-metrics.txt)"
        )
    values: dict[str, list[np.ndarray]] = {}
    for of_decoder, of_source in zip(made, true, strict=True):
        for measure in _measures(of_source):
            values.setdefault(measure.__name__, []).append(measure(of_decoder, of_source))
    for name, found in values.items():
        yield name, float(np.concatenate(found).mean())


def compare_decoders(
    decoders: Mapping[str, Callable[[Any], Clips]], held_out: Iterable[tuple[Any, Clips]]
) -> dict[str, dict[str, float]]:
    """The measures of each decoder, by its name, on the same batches of (latents, source)."""
    batches = list(held_out)
    return {
        name: dict(
            reconstruction_metrics(
                (np.asarray(decode(z)) for z, _ in batches), (true for _, true in batches)
            )
        )
        for name, decode in decoders.items()
    }


def _measures(true: Clips) -> list[Callable[[Clips, Clips], np.ndarray]]:
    fitting = [measure for measure, shortest in _SHORTEST.items() if true.shape[1] >= shortest]
    if has_lpips() and min(true.shape[2:4]) >= MIN_SIDE:
        return fitting
    return [measure for measure in fitting if measure is not lpips_per_clip]
