"""Bilinear resizing as each published metric has it, against torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_inception import torch_resize_tf1

from magicvideo_jax.evaluation.resizing import resize_corners, resize_half_pixel, resize_tf1

SIZES = ((64, 64), (48, 80), (256, 256), (300, 240), (1, 5))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frames_equal_torchs(size: tuple[int, int]):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.float32)
    x, theirs = jnp.asarray(frames), torch.from_numpy(np.moveaxis(frames, -1, 1).copy())

    def largest(ours, expected: torch.Tensor) -> float:
        return float(np.abs(np.asarray(ours) - np.moveaxis(expected.numpy(), 1, -1)).max())

    half_pixel = F.interpolate(theirs, (224, 200), mode="bilinear", align_corners=False)
    corners = F.interpolate(theirs, (112, 112), mode="bilinear", align_corners=True)
    assert largest(resize_tf1(x, 299, 299), torch_resize_tf1(theirs, 299)) == 0
    assert largest(resize_half_pixel(x, 224, 200), half_pixel) < 1e-2
    assert largest(resize_corners(x, 112, 112), corners) < 1e-2


def test_ways_of_resizing_differ():
    """A shift of half a source pixel: several levels, by which FID and FVD change."""
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)), jnp.float32)
    difference = np.abs(resize_tf1(x, 224, 224) - resize_half_pixel(x, 224, 224))
    assert difference.mean() > 1
