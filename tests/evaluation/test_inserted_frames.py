"""Inserted frames measured beside a blend and a repetition of the frames that were known."""

import numpy as np
import pytest

from magicvideo_jax.evaluation.inserted_frames import inserted_frames
from magicvideo_jax.evaluation.metrics import METRICS, MetricInput


def clip_of(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint8)[None, :, None, None, None] * np.ones(
        (2, 1, 4, 4, 3), np.uint8
    )


def test_a_blend_is_right_where_frames_change_evenly_and_a_repetition_where_they_rest():
    even, resting = clip_of(0, 40, 80, 120, 160), clip_of(7, 7, 7, 7, 160)
    assert inserted_frames(resting, even)["psnr_of_blending"] > 80
    measured = inserted_frames(even, resting)
    squares = [0, (7 - 160) ** 2, (7 - 160) ** 2]  # of frames 1 to 3, of which the first is nearer
    expected = 10 * np.log10(255**2 / np.mean(squares))
    assert measured["psnr_of_repetition"] == pytest.approx(expected)
    squares = [(40 - 7) ** 2, (80 - 7) ** 2, (120 - 7) ** 2]
    assert measured["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(squares)))


def test_what_was_known_does_not_count():
    reference = clip_of(0, 40, 80, 120, 160)
    samples = reference.copy()
    samples[:, [0, -1]] = 99
    assert inserted_frames(samples, reference)["psnr"] > 80


def test_it_needs_a_reference_and_a_frame_between():
    clip = clip_of(1, 2, 3)
    assert METRICS["inserted_frames"](MetricInput(clip)) is None
    assert METRICS["inserted_frames"](MetricInput(clip[:, :2], clip[:, :2])) is None
