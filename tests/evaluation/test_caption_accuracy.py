"""The scorer reads real held-out clips right, blurred and noisy ones too, and another's caption by chance."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.shape_clips import (
    Colour,
    Motion,
    Scene,
    Shape,
    clip_at,
    draw_clip,
    draw_image,
    held_out_image_scenes,
    held_out_scenes,
)
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.drawn_reading import Reading, read_clip

BAR, DEGRADED_BAR = 0.995, 0.97


def degrade(pixels: np.ndarray, seed: int, *, sigma: float = 1.0, noise: float = 6.0) -> np.ndarray:
    """A Gaussian blur of `sigma` px, then noise of this deviation (of 255)."""
    offsets = np.arange(-4, 5)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    blurred = pixels.astype(np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (4, 4)
        padded = np.pad(blurred, pad, mode="edge")
        side = pixels.shape[axis]
        parts = [
            np.take(padded, range(i, i + side), axis) * k
            for i, k in enumerate(kernel / kernel.sum())
        ]
        blurred = np.sum(parts, axis=0)
    blurred = blurred + np.random.default_rng(seed).normal(0, noise, pixels.shape)
    return np.clip(np.round(blurred), 0, 255).astype(np.uint8)


def score(scenes: Sequence[Scene], *, degraded: bool = False) -> dict[str, float]:
    clips = [draw_clip(s).pixels for s in scenes]
    clips = [degrade(c, i) for i, c in enumerate(clips)] if degraded else clips
    return caption_accuracy(clips, [s.truth for s in scenes])


def test_held_out_clips_are_read_right():
    assert min(score(held_out_scenes(1, 100)).values()) >= BAR


def test_blurred_and_noisy_clips_are_read_right():
    assert min(score(held_out_scenes(2, 100), degraded=True).values()) >= DEGRADED_BAR


@pytest.mark.slow
@pytest.mark.parametrize(("degraded", "bar"), [(False, BAR), (True, DEGRADED_BAR)])
def test_many_held_out_clips_are_read_right(degraded, bar):
    scores = score(held_out_scenes(3, 700), degraded=degraded)
    assert min(scores[name] for name in ("shape", "colour", "motion")) >= bar, scores


def test_shuffled_captions_score_chance():
    scenes = held_out_scenes(4, 280)
    clips = [draw_clip(s).pixels for s in scenes]
    rng = np.random.default_rng(0)
    shuffled = [scenes[i].truth for i in rng.permutation(len(scenes))]
    scores = caption_accuracy(clips, shuffled)
    for name, chance in (
        ("shape", 1 / len(Shape)),
        ("colour", 1 / len(Colour)),
        ("motion", 1 / len(Motion)),
    ):
        assert abs(scores[name] - chance) < 4 * np.sqrt(chance / len(scenes)), (name, scores)
    assert scores["all"] < 0.05


def test_pictures_are_read_without_motion():
    scenes = held_out_image_scenes(0, 64) + held_out_scenes(5, 64)
    for degraded in (False, True):
        clips = [draw_image(s).pixels for s in scenes]
        clips = [degrade(c, i) for i, c in enumerate(clips)] if degraded else clips
        scores = caption_accuracy(clips, [s.truth for s in scenes])
        assert scores.keys() == {"shape", "colour", "all"}
        assert min(scores.values()) >= (DEGRADED_BAR if degraded else BAR)


@pytest.mark.parametrize("fps", [6.0, 7.5, 9.0])
@pytest.mark.parametrize("size", [32, 128])
def test_any_size_and_rate_is_read(fps, size):
    scenes = [replace(s, fps=fps) for s in held_out_scenes(6, 24)]
    clips = [draw_clip(s, size=size).pixels for s in scenes]
    scores = caption_accuracy(clips, [s.truth for s in scenes])
    assert min(scores.values()) >= (0.9 if size == 32 else 1.0)


def test_diagonals_to_any_corner_and_circles_either_way_count():
    """What a caption leaves open a model may choose."""
    falling = next(c for i in range(1000) if (c := clip_at(0, i)).motion is Motion.DIAGONAL)
    circling = next(c for i in range(1000) if (c := clip_at(0, i)).motion is Motion.CIRCLING)
    assert read_clip(falling.pixels[:, :, ::-1]).motion is Motion.DIAGONAL
    assert read_clip(falling.pixels[::-1]).motion is Motion.DIAGONAL
    assert read_clip(circling.pixels[::-1]).motion is Motion.CIRCLING
    moving = next(c for i in range(1000) if (c := clip_at(0, i)).motion is Motion.LEFT)
    assert read_clip(moving.pixels[::-1]).motion is Motion.RIGHT


def test_nothing_is_read_from_nothing():
    nothing = Reading(None, None, None)
    assert read_clip(np.full((16, 64, 64, 3), 40, np.uint8)) == nothing
    scenes = held_out_scenes(0, 4)
    blank = [np.zeros((16, 64, 64, 3), np.uint8)] * 4
    assert set(caption_accuracy(blank, [s.truth for s in scenes]).values()) == {0.0}


def test_random_pixels_do_not_break_the_reader():
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    assert isinstance(read_clip(noise), Reading)


def test_a_truth_a_clip():
    with pytest.raises(UserError, match="one truth a clip"):
        caption_accuracy([np.zeros((16, 64, 64, 3), np.uint8)], [])
