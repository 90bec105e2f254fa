"""Laws of the drawn clips: pure in (seed, index, split), continuous in time and place, held-out triples never drawn."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.drawing import draw_scene
from magicvideo_jax.data.drawn.scene import MOTION_SECONDS, pose_at
from magicvideo_jax.data.drawn.shape_clips import (
    FPS,
    Colour,
    DrawnSplit,
    Motion,
    Scene,
    Shape,
    ShapeClips,
    ShapeImages,
    clip_at,
    draw_clip,
    draw_image,
    held_out_image_scenes,
    held_out_scenes,
    image_at,
    scene_at,
    truths,
    vocabulary,
)
from magicvideo_jax.data.drawn.wording import IMAGE_TEMPLATES, unused_image_template


def some(motion: Motion) -> Scene:
    """The first scene of a motion in the stream."""
    return next(drawn for i in range(1000) if (drawn := scene_at(0, i)).truth.motion is motion)


def test_a_clip_is_a_pure_function_of_its_place():
    once, again = clip_at(3, 17), clip_at(3, 17)
    assert np.array_equal(once.pixels, again.pixels)
    assert (once.caption, once.fps, once.shape) == (again.caption, again.fps, again.shape)
    assert once.pixels.shape == (16, 64, 64, 3)
    others = [clip_at(3, 18), clip_at(4, 17), clip_at(3, 17, split=DrawnSplit.HELD_OUT)]
    assert not any(np.array_equal(once.pixels, other.pixels) for other in others)


def test_a_tenth_of_the_triples_is_held_out_and_every_pair_is_trained_on():
    train, out = set(truths(DrawnSplit.TRAIN)), set(truths(DrawnSplit.HELD_OUT))
    assert len(train) + len(out) == len(Shape) * len(Colour) * len(Motion)
    assert len(out) == round((len(train) + len(out)) / 10)
    assert not train & out
    assert {t[:2] for t in train} == {(s, c) for s in Shape for c in Colour}
    assert {t[1:] for t in train} == {(c, m) for c in Colour for m in Motion}
    assert {t[::2] for t in train} == {(s, m) for s in Shape for m in Motion}


def test_training_never_draws_a_held_out_triple():
    out = set(truths(DrawnSplit.HELD_OUT))
    drawn = [scene_at(seed, i).truth for seed in (0, 1) for i in range(400)]
    assert not out & set(drawn)
    assert {t.motion for t in drawn} == set(Motion)
    assert {t[:2] for t in drawn} == {(s, c) for s in Shape for c in Colour}
    assert {scene_at(0, i, DrawnSplit.HELD_OUT).truth for i in range(100)} <= out


def test_held_out_scenes_are_distinct():
    scenes = held_out_scenes(0, 100)
    assert len(set(scenes)) == 100
    assert len({s.truth for s in scenes[:70]}) == 70
    assert {s.truth for s in scenes} == set(truths(DrawnSplit.HELD_OUT))
    assert held_out_scenes(0, 64) == scenes[:64]
    assert len({s.truth[:2] for s in held_out_image_scenes(0, 64)}) == 64


def test_captions_name_what_is_drawn_in_known_words():
    words = set(vocabulary())
    assert 100 < len(words) < 160
    for i in range(400):
        drawn = scene_at(1, i)
        said = re.findall(r"[a-z]+", drawn.caption)
        assert drawn.truth.colour in said
        assert drawn.truth.shape in said
        assert words.issuperset(said + re.findall(r"[a-z]+", drawn.image_caption))
        assert not re.search(r"\ban? *$|  |[{}]|\ba [aeiou]|\ban [^aeiou]", drawn.caption), (
            drawn.caption
        )


def test_no_two_motions_share_a_wording_and_pictures_name_no_motion():
    said = {}
    for i in range(600):
        drawn = scene_at(2, i)
        short = re.sub("|".join([*Shape, *Colour]), "*", drawn.caption)
        assert said.setdefault(short, drawn.truth.motion) is drawn.truth.motion
        picture = draw_image(drawn).caption if i < 50 else drawn.image_caption
        assert drawn.truth.colour in picture
        assert drawn.truth.shape in picture
        assert not re.search(r"ing\b(?<!ring)(?<!drawing)", picture), picture


def test_a_held_out_picture_has_a_wording_never_trained_on():
    trained = {scene_at(0, i).image_caption for i in range(600)}
    assert not trained & {s.image_caption for s in held_out_image_scenes(0, 64)}
    assert (
        len({unused_image_template(s, c) for s in Shape for c in Colour})
        > len(IMAGE_TEMPLATES) // 2
    )


@pytest.mark.parametrize("motion", list(Motion))
def test_twice_the_fps_shows_every_other_moment(motion):
    slow = replace(some(motion), fps=6.0)
    fast = replace(slow, fps=12.0)
    assert np.array_equal(draw_clip(slow, frames=8).pixels, draw_clip(fast, frames=16).pixels[::2])


def test_speed_is_in_seconds():
    left = some(Motion.LEFT)
    at = pose_at(left, np.array([0.0, 0.5, 1.0]))
    assert at.x[0] - at.x[1] == pytest.approx(at.x[1] - at.x[2]) == pytest.approx(left.rate / 2)


@pytest.mark.parametrize("motion", list(Motion))
def test_the_shape_stays_in_frame_at_every_fps_and_moves(motion):
    drawn = some(motion)
    for fps in (FPS.start, FPS[-1]):
        frames = draw_clip(replace(drawn, fps=float(fps))).pixels.astype(int)
        bright = frames.max(axis=-1) > 110
        assert bright.any(axis=(1, 2)).all()
        assert not bright[:, [0, -1], :].any()
        assert not bright[:, :, [0, -1]].any()
        change = np.abs(frames - frames[:1]).max(axis=(1, 2, 3))
        assert (change.max() == 0) if motion is Motion.STILL else (change.max() > 100)
    longest = pose_at(
        drawn, np.linspace(0, 3 * MOTION_SECONDS, 50)
    )  # a longer clip comes to rest inside
    assert np.all((longest.x - longest.radius > 0) & (longest.x + longest.radius < 64))
    assert np.all((longest.y - longest.radius > 0) & (longest.y + longest.radius < 64))


@pytest.mark.parametrize("shape", list(Shape))
def test_drawing_is_smooth_below_a_pixel(shape):
    still = some(Motion.STILL)
    still = replace(still, truth=still.truth._replace(shape=shape), x=30.0, y=30.0, fps=8.0)

    def at(x: float) -> np.ndarray:
        return draw_clip(replace(still, x=x), frames=1).pixels.astype(float)

    whole, half, step = at(31.0) - at(30.0), at(30.5) - at(30.0), at(30.1) - at(30.0)
    assert 0.3 < np.abs(half).sum() / np.abs(whole).sum() < 0.7
    assert 0.05 < np.abs(step).sum() / np.abs(whole).sum() < 0.2
    assert np.abs(step).max() < 0.5 * np.abs(whole).max()  # no pixel jumps


def test_another_size_is_the_same_scene():
    drawn = scene_at(0, 5)
    small, large = (
        draw_clip(drawn, frames=4).pixels.astype(float),
        draw_clip(drawn, frames=4, size=128).pixels.astype(float),
    )
    pooled = large.reshape(4, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(pooled - small).mean() < 2


def test_backgrounds_are_never_a_colour():
    corners = np.concatenate(
        [image_at(0, i).pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] for i in range(200)]
    )
    assert corners.max() < 80


def test_sources_are_random_access():
    clips, images = (
        ShapeClips(seed=1, length=50, fps=8.0, frames=3, size=32),
        ShapeImages(seed=1, length=50),
    )
    assert (len(clips), len(images)) == (50, 50)
    assert clips[49].pixels.shape == (3, 32, 32, 3)
    assert clips[49].fps == 8.0
    assert images[7].pixels.shape == (1, 64, 64, 3)
    assert images[7].caption == image_at(1, 7).caption
    with pytest.raises(IndexError):
        clips[50]
    assert sum(1 for _ in clips) == 50


def test_every_other_picture_is_a_moment_of_a_clip_under_its_caption_early_ones_more_often():
    stream = [(image_at(0, i), scene_at(0, i)) for i in range(400)]
    for drawn, of in stream[::2]:
        assert drawn.caption == of.image_caption
    for drawn, of in stream[1:40:2]:
        assert drawn.caption == of.caption
        assert nearest_moment(drawn.pixels[0], of)[1] < 5
    travelling = [
        pair
        for pair in stream[1::2]
        if pair[1].truth.motion in (Motion.LEFT, Motion.UP, Motion.SHRINKING)
    ]
    early = [nearest_moment(drawn.pixels[0], of)[0] < 0.5 for drawn, of in travelling]
    assert 0.55 < np.mean(early) < 0.85  # u^2 < 1/2 for u < 0.71


def nearest_moment(picture: np.ndarray, of: Scene) -> tuple[float, float]:
    """Which part of the clip has passed, and by how much the picture differs from that moment, of 255."""
    moments = np.linspace(0, 15 / of.fps, 31)
    error = np.abs(draw_scene(of, moments) - picture.astype(float)).mean(axis=(1, 2, 3))
    return np.argmin(error) / 30, np.min(error)


def test_a_share_of_the_clips_has_no_caption():
    labelled, some_not = ShapeClips(seed=0), ShapeClips(seed=0, uncaptioned_fraction=0.5)
    bare = [not some_not[i].caption for i in range(60)]
    assert 15 < sum(bare) < 45
    assert bare == [not some_not[i].caption for i in range(60)]
    for i in range(4):
        assert np.array_equal(labelled[i].pixels, some_not[i].pixels)
        assert labelled[i].caption


def test_late_clips_are_later_frames_of_the_same_scene_in_their_share():
    usual = ShapeClips(0, frames=8, size=16)
    clips = ShapeClips(0, frames=8, size=16, late_fraction=0.5)
    late = [i for i in range(60) if clips[i].is_late]
    assert 18 <= len(late) <= 42
    for i in range(60):
        longer = draw_clip(scene_at(0, i), frames=24, size=16).pixels
        firsts = [f for f in range(17) if np.array_equal(longer[f : f + 8], clips[i].pixels)]
        assert firsts, i
        assert clips[i].caption == usual[i].caption
        if i not in late:
            np.testing.assert_array_equal(clips[i].pixels, usual[i].pixels)


def test_what_cannot_be_drawn_is_refused_in_one_line():
    for wrong in ({"frames": 0}, {"size": 4}):
        with pytest.raises(UserError, match=r"frames=|size="):
            clip_at(0, 0, **wrong)
    with pytest.raises(UserError, match="fps=0"):
        draw_clip(replace(scene_at(0, 0), fps=0.0))
    with pytest.raises(UserError, match="negative"):
        clip_at(-1, 0)


def test_drawing_is_fast_enough_to_train_on():
    clip_at(0, 0)
    start = time.process_time()
    for i in range(30):
        clip_at(0, i)
    assert (time.process_time() - start) / 30 < 1 / 60


def test_a_stream_of_some_motions_shows_no_others():
    wanted = (Motion.CIRCLING, Motion.UP)
    clips = ShapeClips(seed=3, frames=1, size=16, motions=wanted)
    assert {clips[i].motion for i in range(40)} == set(wanted)
    scenes = held_out_scenes(0, 40, wanted)
    assert {scene.truth.motion for scene in scenes} == set(wanted)
    assert {scene.truth for scene in scenes} <= set(truths(DrawnSplit.HELD_OUT))
