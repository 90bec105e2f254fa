"""Metrics by name: each is measured where it applies, and left out where it does not."""

from types import SimpleNamespace

import numpy as np
import pytest

from magicvideo_jax.data.drawn.shape_clips import draw_clip, held_out_scenes
from magicvideo_jax.evaluation import metrics
from magicvideo_jax.evaluation.metrics import METRICS, MetricInput, measure, metrics_table

RECONSTRUCTION = ("psnr", "ssim", "lpips", "difference_error", "warped_error", "fast_error")


def clips(frames: int = 4, side: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, frames, side, side, 3), np.uint8)


def noisy(true: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 8, true.shape)
    return np.clip(true + noise, 0, 255).astype(np.uint8)


def test_without_a_reference_no_reconstruction_is_measured():
    assert measure(METRICS, MetricInput(clips())).keys() == {"motion", "sharpness"}


def test_short_and_small_clips_leave_out_what_needs_more(monkeypatch):
    monkeypatch.setattr(metrics, "has_lpips", lambda: False)

    def measured(frames: int) -> set[str]:
        true = clips(frames)
        return set(measure(RECONSTRUCTION, MetricInput(noisy(true), reference=true)))

    assert measured(1) == {"psnr", "ssim"}
    assert measured(3) == {"psnr", "ssim", "difference_error", "warped_error"}
    assert measured(4) == {"psnr", "ssim", "difference_error", "warped_error", "fast_error"}


def test_metrics_come_in_the_order_asked_for():
    true = clips()
    asked = ("ssim", "motion", "psnr")
    assert tuple(measure(asked, MetricInput(noisy(true), reference=true))) == asked


def test_drawn_clips_show_what_their_captions_say():
    scenes = held_out_scenes(0, 2)
    drawn = np.stack([draw_clip(scene, frames=16, size=64).pixels for scene in scenes])
    truths = [scene.truth for scene in scenes]
    scores = measure(["caption_accuracy"], MetricInput(drawn, truths=truths))
    assert scores == {"caption_accuracy": dict.fromkeys(("shape", "colour", "motion", "all"), 1.0)}


def test_the_held_out_loss_is_computed_only_when_asked_for():
    calls = SimpleNamespace(number=0)

    def loss() -> dict[str, float]:
        calls.number += 1
        return {"mean": 0.5}

    measured = MetricInput(clips(), held_out_loss=loss)
    measure(["motion"], measured)
    assert calls.number == 0
    assert measure(["held_out_loss"], measured) == {"held_out_loss": {"mean": 0.5}}


def test_a_table_shows_every_number():
    lines = list(metrics_table({"clips": 2.0, "motion": {"flicker": 1.25}}))
    assert lines == ["clips             2.000", "motion", "  flicker             1.250"]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_a_word(name: str):
    """Names go into configs, command lines and metrics.json."""
    assert name.isidentifier()
    assert name == name.lower()
