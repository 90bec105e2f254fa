"""The motion score sees motion, and neither noise nor flicker."""

from dataclasses import replace

import numpy as np
import pytest

from magicvideo_jax.data.drawn import shape_clips as shapes
from magicvideo_jax.evaluation.motion import flicker, frame_difference, motion, motion_metrics

SCENES = shapes.held_out_scenes(0, 70)


def scenes_of(kind: shapes.Motion) -> list[shapes.Scene]:
    return [scene for scene in SCENES if scene.truth.motion is kind]


def noisy(clip: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def still() -> np.ndarray:
    return shapes.draw_clip(scenes_of(shapes.Motion.STILL)[0]).pixels


def test_a_still_clip_has_none():
    still_ones = {"frame_difference": 0, "motion": 0, "moving_share": 0, "flicker": 0}
    assert dict(motion_metrics([still()])) == still_ones


@pytest.mark.parametrize("deviation", [2, 10, 40])
def test_noise_is_flicker_and_no_motion(deviation):
    clip = noisy(still(), deviation)
    assert motion(clip) < 0.005
    assert frame_difference(clip) > deviation / 2
    assert flicker(clip) == pytest.approx(deviation, rel=0.3)


def test_changing_brightness_is_no_motion():
    light = np.random.default_rng(0).uniform(0.7, 1.3, (16, 1, 1, 1))
    clip = np.clip(still() * light, 0, 255).astype(np.uint8)
    assert motion(clip) < 0.005
    assert flicker(clip) > 1


@pytest.mark.parametrize(
    "kind", [kind for kind in shapes.Motion if kind is not shapes.Motion.STILL]
)
def test_every_motion_of_drawn_shapes_is_seen(kind):
    assert motion(shapes.draw_clip(scenes_of(kind)[0]).pixels) > 0.03


@pytest.mark.parametrize("deviation", [0, 5])
def test_twice_the_speed_scores_about_twice(deviation):
    slow, fast = (
        np.mean(
            [
                motion(
                    noisy(
                        shapes.draw_clip(replace(scene, fps=scene.rate / speed)).pixels, deviation
                    )
                )
                for scene in scenes_of(shapes.Motion.RIGHT)[:4]
            ]
        )
        for speed in (1, 2)
    )
    assert 1.5 < fast / slow < 2.6


@pytest.mark.parametrize("speed", [1, 2, 4])
def test_a_pan_reads_in_pixels_per_frame(speed):
    scene = np.kron(
        np.random.default_rng(0).integers(0, 256, (18, 40, 3)), np.ones((4, 4, 1))
    ).astype(np.uint8)
    pan = np.stack([scene[:64, speed * i : speed * i + 64] for i in range(16)])
    assert motion(pan) == pytest.approx(speed, rel=0.12)
    large = np.repeat(np.repeat(pan, 3, axis=1), 3, axis=2)
    assert motion(large) == pytest.approx(
        3 * speed, rel=0.12
    )  # pixels of the clip, not of the reduced frame


def test_the_moving_share_is_of_clips_that_are_not_at_rest():
    clips = [noisy(shapes.draw_clip(scene).pixels, 5) for scene in SCENES[:24]]
    at_rest = [scene.truth.motion is shapes.Motion.STILL for scene in SCENES[:24]]
    assert any(at_rest)
    assert dict(motion_metrics(clips))["moving_share"] == 1 - np.mean(at_rest)


def test_a_moving_shape_is_no_flicker():
    assert flicker(shapes.draw_clip(scenes_of(shapes.Motion.RIGHT)[0]).pixels) == 0


def test_frame_difference_is_in_levels():
    clip = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (0, 255, 250)])
    assert frame_difference(clip) == pytest.approx(130)


def test_short_and_small_clips_have_what_they_can_have():
    clip = still()
    assert dict(motion_metrics([clip[:1]])) == {}
    assert set(dict(motion_metrics([clip[:2]]))) == {"frame_difference", "motion", "moving_share"}
    assert motion(clip[:, :9, :17]) == 0
    assert dict(motion_metrics([])) == {}
