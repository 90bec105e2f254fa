"""Sharpness falls with blur, and does not depend on what moves."""

import numpy as np
from scipy.ndimage import gaussian_filter

from magicvideo_jax.data.drawn.shape_clips import draw_clip, held_out_scenes
from magicvideo_jax.evaluation.sharpness import sharpness


def test_it_falls_with_blur():
    clips = np.stack([draw_clip(scene).pixels for scene in held_out_scenes(0, 4)])
    of_blurred = [
        sharpness(gaussian_filter(clips, (0, 0, sigma, sigma, 0))).mean()
        for sigma in (0, 0.5, 1, 2)
    ]
    assert of_blurred == sorted(of_blurred, reverse=True)
    assert of_blurred[-1] < 0.2 * of_blurred[0]


def test_a_plain_picture_has_none_and_a_checkerboard_the_most():
    plain = np.full((1, 2, 8, 8, 3), 90, np.uint8)
    board = np.broadcast_to(255 * (np.indices((8, 8)).sum(0) % 2)[..., None], plain.shape)
    assert sharpness(plain) == [0.0]
    assert sharpness(board.astype(np.uint8)) == [4 * 255]
