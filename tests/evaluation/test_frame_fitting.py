"""Frames are cropped and resized as each protocol says."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.evaluation.frame_fitting import fit_frames
from magicvideo_jax.evaluation.protocols import PROTOCOLS, FrameFit

TATS = PROTOCOLS["tats"]


def frames(height: int, width: int) -> jnp.ndarray:
    return jnp.asarray(
        np.random.default_rng(0).uniform(0, 255, (2, 3, height, width, 3)), "float32"
    )


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("size", [(9, 14), (20, 12), (16, 16)])
def test_frames_become_squares(name: str, size: tuple[int, int]):
    assert fit_frames(frames(*size), 16, PROTOCOLS[name]).shape == (2, 3, 16, 16, 3)


def test_frames_of_the_right_size_stay_as_they_are():
    x = frames(16, 16)
    for protocol in PROTOCOLS.values():
        np.testing.assert_allclose(fit_frames(x, 16, protocol), x, rtol=1e-6)


def test_a_squash_sees_the_borders_and_the_shorter_side_does_not():
    x = frames(16, 40)
    other = x.at[..., :4, :].set(0)
    for fit, sees in ((FrameFit.HALF_PIXEL_SQUASH, True), (FrameFit.SHORTER_SIDE, False)):
        protocol = replace(TATS, fit=fit)
        change = fit_frames(other, 16, protocol) - fit_frames(x, 16, protocol)
        assert bool(np.abs(change).max() > 1) is sees


def test_a_crop_is_of_the_centre_and_no_larger_than_the_frame():
    x = frames(24, 40)
    expected = {12: x[..., 6:18, 14:26, :], 30: x[..., 8:32, :]}
    for crop, part in expected.items():
        fitted = fit_frames(x, 16, replace(TATS, crop=crop))
        np.testing.assert_allclose(fitted, fit_frames(part, 16, TATS), rtol=1e-6)
