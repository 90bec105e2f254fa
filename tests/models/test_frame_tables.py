"""Laws of networks that are evaluated on a part of a clip: tables of frames are read from its first frame on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.frame_tables import set_first_frame
from magicvideo_jax.models.motion_module import MotionModule
from magicvideo_jax.models.temporal import (
    MotionModuleConfig,
    PositionEncoding,
    TemporalConfig,
    TemporalMask,
    TemporalMixing,
)
from magicvideo_jax.models.temporal_attention import TemporalAttention
from magicvideo_jax.models.temporal_places import Site
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet

FRAMES = 6


def clip(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_a_part_of_a_clip_has_the_adaptors_of_its_frames():
    """Where frames do not meet, the network on a part is the part of the network, for a traced first frame."""
    config = UNetConfig(
        levels=(UNetLevelConfig(8, 2),), middle_heads=2, blocks=1, context=8, groups=4
    )
    config = replace(config, temporal=TemporalConfig(FRAMES, mixing=TemporalMixing.NONE))
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    params = random_params(network.shapes)
    z, time, text = clip(2, FRAMES, 4, 4, 4), jnp.array([10.0, 700.0]), clip(2, 3, 8, seed=1)
    from_frame = network.method(lambda unet, first, *inputs: unet.from_frame(first)(*inputs))
    whole = network.apply(params, z, time, text)

    @jax.jit
    def part(first: jax.Array) -> jax.Array:
        sliced = jax.lax.dynamic_slice_in_dim(z, first, 3, axis=1)
        return from_frame(params, first, sliced, time, text)

    for first in (0, 2, 3):
        np.testing.assert_allclose(
            part(jnp.int32(first)), whole[:, first : first + 3], rtol=0, atol=1e-5
        )
    # Other frames' adaptors are others.
    wrong = network.apply(params, z[:, 3:], time, text)
    assert jnp.abs(wrong - whole[:, 3:]).max() > 0.01


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_a_part_of_a_clip_has_the_positions_of_its_frames(kind: str):
    """Positions read from the first frame on are those of a table without the rows before."""
    temporal = TemporalConfig(FRAMES, mask=TemporalMask.NONE, position=PositionEncoding.LEARNED)

    def build(keys, frames):
        if kind == "learned":
            return TemporalAttention(replace(temporal, frames=frames), 8, heads=2, keys=keys)
        site = Site(8, 2, 4, 8, keys)
        return MotionModule(MotionModuleConfig(heads=2), site, frames=frames)

    def from_frame(layer, z, first):
        set_first_frame(layer, first)
        return layer(z)

    network = bind(lambda keys: build(keys, FRAMES))
    params, z = random_params(network.shapes), clip(2, 3, 2, 2, 8)
    first, later = (network.method(from_frame)(params, z, jnp.int32(n)) for n in (0, 3))
    np.testing.assert_allclose(first, network.apply(params, z), rtol=0, atol=1e-6)
    assert jnp.abs(first - later).max() > 1e-3
    if kind == "learned":
        shorter = bind(lambda keys: build(keys, 3))
        cut = {**params, "positions": params["positions"][3:]}
        np.testing.assert_allclose(later, shorter.apply(cut, z), rtol=0, atol=1e-6)
