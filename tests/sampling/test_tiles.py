"""Tiles: where a network looks at one place only, they are the whole; otherwise they meet without a seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.tiles import TileConfig, tiled_denoiser

TILES = TileConfig(side=8, overlap=3)
TIME = jnp.array([3.0, 3.0])


def local(z, time, condition):
    """What each place becomes depends on that place, the time, the text and the level."""
    text = condition.text.mean((1, 2)) + condition.noise_level
    by_clip = (time + text)[:, None, None, None, None]
    return jnp.sin(z) * by_clip + condition.given[..., :1] ** 2


def inputs(h: int, w: int) -> tuple[jax.Array, Condition]:
    keys = jax.random.split(jax.random.key(0), 3)
    z = jax.random.normal(keys[0], (2, 3, h, w, 4))
    given, text = jax.random.normal(keys[1], (2, 3, h, w, 3)), jax.random.normal(keys[2], (2, 5, 6))
    return z, Condition(text, given=given, noise_level=jnp.array([1, 7]))


@pytest.mark.parametrize(("h", "w"), [(8, 8), (5, 9), (21, 8), (16, 30)])
def test_tiles_of_a_local_network_are_the_whole(h: int, w: int):
    z, condition = inputs(h, w)
    seen = []

    def network(z, time, condition):
        seen.append((z.shape[2:4], condition.given.shape[2:4]))
        return local(z, time, condition)

    np.testing.assert_allclose(
        jax.jit(tiled_denoiser(network, TILES))(z, TIME, condition),
        local(z, TIME, condition),
        rtol=0,
        atol=2e-6,
    )
    assert set(seen) == {((min(8, h), min(8, w)),) * 2}


def test_guidance_applies_to_the_whole():
    z, condition = inputs(16, 12)
    null = condition._replace(text=jnp.zeros_like(condition.text))
    whole = guided(local, jnp.array(3.0), null)(z, TIME, condition)
    parts = guided(tiled_denoiser(local, TILES), jnp.array(3.0), null)(z, TIME, condition)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_no_side_is_no_tiles():
    assert tiled_denoiser(local, TileConfig()) is local


def test_memory_is_that_of_a_tile():
    """The network is inside thirty times as wide as its latents."""

    def wide(z, time, condition):
        inside = jnp.sin(jnp.concatenate([z] * 32, axis=-1) + time.mean())
        inside = jax.lax.reduce_window(inside, 0.0, jax.lax.add, (1, 1, 3, 3, 1), (1,) * 5, "SAME")
        return inside.reshape(*z.shape, -1).mean(-1)

    def temporary(network, side: int) -> int:
        z = jax.ShapeDtypeStruct((1, 1, side, side, 4), jnp.float32)
        text = jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)
        time = jax.ShapeDtypeStruct((1,), jnp.float32)
        program = jax.jit(network).lower(z, time, Condition(text)).compile()
        return program.memory_analysis().temp_size_in_bytes

    tiles = tiled_denoiser(wide, TileConfig(side=32, overlap=8))
    whole, least = temporary(wide, 256), temporary(wide, 32)
    latents = 256 * 256 * 4 * 4
    assert temporary(tiles, 256) < 3 * least + 6 * latents < whole / 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TileConfig(side=-1), "side=-1: give at least 0"),
        (lambda: TileConfig(side=16, overlap=9), r"side=16: give 0 \(whole frames\), or at least"),
        (lambda: TileConfig(side=16, overlap=0), "which is at least 1"),
        (
            lambda: SampleConfig(feature_cache=2, tiles=TILES),
            "feature_cache=2: give 1; with .*tiles",
        ),
    ],
)
def test_tiles_that_do_not_meet_are_refused(make, words: str):
    with pytest.raises(UserError, match=words):
        make()
