"""Laws of AnimateDiff's motion module; parity with PyTorch is in tests/weights/test_animatediff_parity.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import quick, random_params

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.lone_motion import MotionConfig, is_motion, motion_network
from magicvideo_jax.models.motion_module import MotionModule
from magicvideo_jax.models.temporal import (
    ANIMATEDIFF_V1,
    ANIMATEDIFF_V2,
    ANIMATEDIFF_V3,
    MotionModuleConfig,
    MotionNorm,
    TemporalConfig,
    with_motion_norm,
)
from magicvideo_jax.models.temporal_places import Site
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet
from magicvideo_jax.parallel.batch import batch_sharding
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh

JOINT = MotionModuleConfig(norm_over_frames=True)


def module_of(config: MotionModuleConfig = JOINT, *, frames: int = 8):
    return bind(lambda keys: MotionModule(config, Site(16, 2, 4, 32, keys), frames=frames))


def clip(frames: int = 4) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, frames, 4, 4, 16)), jnp.float32)


def test_a_fresh_module_is_the_identity():
    network = module_of()
    z = clip()
    np.testing.assert_array_equal(quick(network.apply)(network.init(jax.random.key(0)), z), z)


def test_more_frames_than_positions_are_an_error():
    network = module_of(frames=3)
    with pytest.raises(ValueError, match="4 frames, and motion modules with 3 positions"):
        jax.eval_shape(network.apply, network.shapes, clip())


@pytest.mark.parametrize("norm_over_frames", [False, True])
def test_a_clip_on_devices_that_share_its_frames_is_that_of_one(norm_over_frames):
    """The output, and the gradient: the norm over frames is a sum over devices."""
    network = module_of(replace(JOINT, norm_over_frames=norm_over_frames))
    params, z, mesh = random_params(network.shapes), clip(), make_mesh(MeshConfig(1, 2, 4))

    def both(params, z):
        out, back = jax.vjp(network.apply, params, z)
        return out, back(jnp.sin(out))

    alone = quick(both)(params, z)
    with jax.set_mesh(mesh):
        spread = jax.jit(both)(params, jax.device_put(z, batch_sharding(mesh, z.shape)))
    for ours, expected in zip(*map(jax.tree.leaves, (spread, alone)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


def test_modules_alone_have_the_paths_that_they_have_in_a_u_net():
    unet = UNetConfig(
        levels=(UNetLevelConfig(8, 2), UNetLevelConfig(16, 0)),
        middle_heads=2,
        blocks=1,
        context=8,
        groups=4,
        temporal=ANIMATEDIFF_V2,
    )
    whole = flatten(bind(lambda keys: VideoUNet(unet, keys=keys)).shapes)
    config = MotionConfig(widths=(8, 16), blocks=1, groups=4, temporal=ANIMATEDIFF_V2)
    alone = motion_network(config)
    expected = {path: shape for path, shape in whole.items() if is_motion(path)}
    assert flatten(alone.shapes) == expected
    assert len(expected) == 26 * (2 + 4 + 1)
    assert flatten(alone.init(jax.random.key(0))).keys() == expected.keys()


def test_the_norm_conventions_are_a_switch():
    """Table of the three programs: (residual blocks over frames, motion modules over frames)."""

    def switched(temporal: TemporalConfig, norm: MotionNorm) -> tuple[bool, bool]:
        changed = with_motion_norm(temporal, norm)
        assert changed.motion is not None
        return changed.norm_over_frames, changed.motion.norm_over_frames

    for version, is_v1 in (
        (ANIMATEDIFF_V1, True),
        (ANIMATEDIFF_V2, False),
        (ANIMATEDIFF_V3, False),
    ):
        assert with_motion_norm(version, MotionNorm.AUTO) == version
        assert with_motion_norm(version, MotionNorm.ORIGINAL) == version
        assert switched(version, MotionNorm.ORIGINAL) == (is_v1, False)
        assert switched(version, MotionNorm.ORIGINAL_V1) == (True, False)
        assert switched(version, MotionNorm.DIFFUSERS) == (False, True)
    with pytest.raises(ValueError, match="no motion modules"):
        with_motion_norm(TemporalConfig(), MotionNorm.DIFFUSERS)
