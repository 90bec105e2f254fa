"""Latents to pixels in parts: chunks and tiles give what the whole gives, in memory that the clip does not change."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_video_vae import LEAST, WINDOW, latents, vae
from tiny import quick, random_params

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.bind import Network
from magicvideo_jax.models.layers import upsample
from magicvideo_jax.models.vae import AutoencoderKL, VAEConfig
from magicvideo_jax.sampling.decoding import (
    DecodeConfig,
    StreamingDecode,
    decode_clips,
    tiled,
)
from magicvideo_jax.sampling.tiles import blending_weights, tile_starts

BOTH = pytest.mark.parametrize(
    "config", [LEAST, replace(LEAST, temporal=None)], ids=["video", "image"]
)


def decoder(network: Network, params) -> StreamingDecode:
    return partial(network.method(AutoencoderKL.decode_next), params)


@pytest.mark.parametrize(
    ("config", "at_once"),
    [(LEAST, 3), (LEAST, 100), (replace(LEAST, temporal=None), 3)],
    ids=["video", "video whole", "image"],
)
def test_chunks_equal_the_whole(config: VAEConfig, at_once: int):
    """Odd numbers of frames and odd sizes, two clips; to half a level."""
    network = vae(config)
    params, z = random_params(network.shapes), latents(2, 7, 3, 5, 4)
    pixels = quick(
        partial(decode_clips, decode=decoder(network, params), config=DecodeConfig(frames=at_once))
    )(z)
    assert pixels.shape == (2, 7, 3, 5, 3)
    assert pixels.dtype == jnp.uint8
    whole = quick(network.method(AutoencoderKL.decode))(params, z)
    expected = np.clip(np.asarray(whole), -1, 1) * 127.5 + 127.5
    assert np.ptp(expected) > 50
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=0.51)


def test_one_frame_and_a_thousand():
    network = vae(LEAST)
    params, z = random_params(network.shapes), latents(1, 1, 1, 2, 4)
    z = jnp.concatenate(
        [z, jnp.broadcast_to(latents(1, 1, 1, 2, 4, seed=1), (1, 999, 1, 2, 4))], axis=1
    )
    decode = quick(partial(decode_clips, decode=decoder(network, params)))
    clip = np.asarray(decode(z)).astype(int)
    assert clip.shape == (1, 1000, 1, 2, 3)
    np.testing.assert_allclose(np.asarray(decode(z[:, :1]))[:, 0].astype(int), clip[:, 0], atol=1)
    # The first frame differs from all others, and is forgotten when the windows of two places have passed it.
    assert (clip[0, 0] != clip[0, 999]).any()
    np.testing.assert_array_equal(
        clip[0, 2 * WINDOW - 1 :], np.broadcast_to(clip[0, 999], clip[0, 2 * WINDOW - 1 :].shape)
    )


@BOTH
def test_memory_does_not_grow_with_the_clip(config: VAEConfig):
    """Memory beyond the clip itself and a copy of its latents."""
    network = vae(config)

    def temporary(frames: int) -> int:
        z = jax.ShapeDtypeStruct((1, frames, 8, 8, 4), jnp.float32)
        decode = jax.jit(
            lambda params, z: decode_clips(z, decoder(network, params), DecodeConfig(frames=4))
        )
        memory = decode.lower(network.shapes, z).compile().memory_analysis()
        return memory.temp_size_in_bytes - z.size * 4

    few, many = temporary(16), temporary(64)
    print(few, many)
    assert few > 1e5
    assert many < 1.02 * few


def blur(z: jax.Array, cache: None) -> tuple[jax.Array, None]:
    """A convolutional decoder: a pixel depends on the latents next to its own."""
    kernel = jnp.ones((3, 3, 3, 3)) / 27
    images = upsample(z.reshape(-1, *z.shape[2:]))
    x = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x.reshape(*z.shape[:2], *x.shape[1:]), None


def test_tiles_of_a_convolutional_decoder_equal_the_whole():
    """Exactly, but for the pixels next to where a tile ends."""
    z = latents(1, 2, 21, 30, 3)
    blended, whole = np.asarray(tiled(blur, 10, 4)(z, None)[0]), np.asarray(blur(z, None)[0])
    assert blended.shape == whole.shape == (1, 2, 42, 60, 3)

    def far(side: int) -> np.ndarray:
        ends = [
            2 * end
            for start in tile_starts(side, 10, 4)
            for end in (start, start + 10)
            if 0 < end < side
        ]
        return np.array(
            [all(not end - 1 <= place <= end for end in ends) for place in range(2 * side)]
        )

    inside = np.ix_(far(21), far(30))
    assert far(30).mean() > 0.8
    np.testing.assert_allclose(blended[0, 0][inside], whole[0, 0][inside], rtol=0, atol=1e-6)
    assert np.abs(blended - whole).max() < 0.15 * np.abs(whole).max()


def test_tiles_fade_into_each_other():
    """Where each tile has a brightness of its own (as norms over the tile give it), no edge shows: the steps from
    pixel to pixel are those of a line over the overlap."""

    def with_brightness(z: jax.Array, cache: None) -> tuple[jax.Array, None]:
        return jnp.broadcast_to(
            upsample(z).mean(axis=(2, 3), keepdims=True), upsample(z).shape
        ), None

    z = jnp.broadcast_to(jnp.linspace(-1, 1, 26)[None, None, None, :, None], (1, 1, 10, 26, 3))
    x = np.asarray(tiled(with_brightness, 10, 2)(z, None)[0])
    tiles = np.array(
        [np.linspace(-1, 1, 26)[start : start + 10].mean() for start in tile_starts(26, 10, 2)]
    )
    assert np.abs(np.diff(x, axis=3)).max() < 1.01 * np.diff(tiles).max() / 4
    assert x.min() == pytest.approx(tiles.min())
    assert x.max() == pytest.approx(tiles.max())


@pytest.mark.parametrize(
    ("side", "tile", "overlap"), [(5, 8, 4), (8, 8, 4), (9, 8, 4), (31, 8, 3), (64, 16, 8)]
)
def test_weights_of_tiles_sum_to_one(side: int, tile: int, overlap: int):
    found = tile_starts(side, tile, overlap)
    total, size = np.zeros(side), min(side, tile)
    for start, weight in zip(found, blending_weights(side, found, size), strict=True):
        total[start : start + size] += weight
        assert (weight > 0).all()
    np.testing.assert_allclose(total, 1)
    assert all(before + tile - after >= overlap for before, after in pairwise(found))


def test_tiles_of_a_video_decoder_in_chunks_equal_its_tiles_whole():
    network = vae(LEAST)
    params, z = random_params(network.shapes), latents(1, 6, 6, 9, 4)
    decode = decoder(network, params)
    in_tiles = quick(
        partial(decode_clips, decode=decode, config=DecodeConfig(frames=2, tile=6, overlap=2))
    )(z)
    whole = quick(lambda z: tiled(decode, 6, 2)(z, None)[0])(z)
    expected = np.clip(np.asarray(whole), -1, 1) * 127.5 + 127.5
    np.testing.assert_allclose(in_tiles, expected, rtol=0, atol=0.51)


@pytest.mark.parametrize(
    "fields", [{"frames": 0}, {"tile": -1}, {"tile": 8, "overlap": 5}, {"tile": 8, "overlap": 0}]
)
def test_parts_that_make_no_sense_are_refused(fields: dict):
    with pytest.raises(UserError, match=r"^(frames|tile)=.*: give"):
        DecodeConfig(**fields)
