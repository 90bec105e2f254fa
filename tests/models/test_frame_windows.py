"""Attention in windows is that of diffusers' FreeNoise, and nothing changes for a clip that fits one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from torch_weights import copied, from_torch, randomise, relative_error, to_torch

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.frame_windows import free_noise_windows, over_windows
from magicvideo_jax.models.motion_module import MotionModule
from magicvideo_jax.models.temporal import MotionModuleConfig, animatediff
from magicvideo_jax.models.temporal_places import Site
from magicvideo_jax.weights.tables.unet_keys import UNET_TABLE

LENGTHS = [16, 20, 32, 64]
CHANNELS, HEADS, GROUPS, POSITIONS = 16, 2, 4, 24


def their_module() -> AnimateDiffTransformer3D:
    """A motion module of diffusers; every parameter is random."""
    module = AnimateDiffTransformer3D(
        num_attention_heads=HEADS,
        attention_head_dim=CHANNELS // HEADS,
        in_channels=CHANNELS,
        norm_num_groups=GROUPS,
        activation_fn="geglu",
        attention_bias=False,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=POSITIONS,
    )
    return randomise(module)


def our_module(window):
    """The same module here, and its parameters, from diffusers' keys."""
    config = MotionModuleConfig(heads=HEADS, norm_over_frames=True, attention_window=window)
    network = bind(
        lambda keys: MotionModule(config, Site(CHANNELS, HEADS, GROUPS, 0, keys), frames=POSITIONS)
    )
    state = {
        f"down_blocks.0.motion_modules.0.{name}": value
        for name, value in their_module().state_dict().items()
        if not name.endswith("pos_embed.pe")
    }
    places = {"down_blocks": {"0": {"stages": {"0": {"motion_module": network.shapes}}}}}
    params = copied(UNET_TABLE, places, state)
    return partial(network.apply, params["down_blocks"]["0"]["stages"]["0"]["motion_module"])


@pytest.mark.parametrize("frames", [8, 12, 28])
def test_a_motion_module_in_windows_is_that_of_diffusers(frames):
    """Lengths are 8 + 4 m, and 28 frames are more than there are positions."""
    module = their_module()
    free_noise = AnimateDiffFreeNoiseMixin()
    free_noise._free_noise_context_length, free_noise._free_noise_context_stride = 8, 4
    free_noise._free_noise_weighting_scheme = "pyramid"
    free_noise.device, free_noise.dtype = "cpu", torch.float32
    holder = torch.nn.Module()
    holder.motion_modules = torch.nn.ModuleList([module])
    free_noise._enable_free_noise_in_block(holder)
    assert isinstance(module.transformer_blocks[0], FreeNoiseTransformerBlock)

    z = np.random.default_rng(0).normal(size=(2, frames, 3, 2, CHANNELS)).astype(np.float32)
    with torch.no_grad():
        theirs = from_torch(module(to_torch(z), num_frames=frames), (2, frames))
    ours = our_module(window=8)(jnp.asarray(z))
    assert relative_error(ours, theirs) < 1e-5


def test_a_clip_that_fits_a_window_is_the_clip_without():
    z = jax.random.normal(jax.random.key(0), (1, 12, 2, 2, CHANNELS))
    np.testing.assert_array_equal(our_module(12)(z), our_module(None)(z))
    assert relative_error(our_module(8)(z), our_module(None)(z)) > 0.01


def test_windows_need_the_memory_of_one():
    """One loop over windows, with the network in it once."""
    y = jnp.ones((1, 2, 61, 3))
    program = jax.make_jaxpr(lambda y: over_windows(jnp.sin, y, context=16))(y)
    assert str(program).count("scan[") == 1
    assert str(program).count(" sin ") == 1
    np.testing.assert_allclose(over_windows(jnp.sin, y, context=16), jnp.sin(y), rtol=1e-6)


def test_a_window_has_no_more_frames_than_there_are_positions():
    with pytest.raises(FieldError, match=r"motion\.attention_window=9: give at most frames=8"):
        animatediff(frames=8, motion=MotionModuleConfig(attention_window=9))
    assert animatediff(frames=8, motion=MotionModuleConfig()).max_frames == 8
    assert animatediff(frames=8, motion=MotionModuleConfig(attention_window=8)).max_frames is None


@pytest.mark.parametrize("frames", LENGTHS)
def test_windows_and_weights_are_those_of_diffusers(frames):
    """Lengths are 16 + 4 m: diffusers weighs the last window of others wrongly."""
    block = FreeNoiseTransformerBlock(8, 1, 8, context_length=16, context_stride=4)
    first, shares = free_noise_windows(frames, context=16)
    assert [(int(i), int(i) + 16) for i in first] == block._get_frame_indices(frames)
    weights = np.array(block._get_frame_weights(16, "pyramid"), np.float64)
    total = np.zeros(frames)
    for i in first:
        total[i : i + 16] += weights
    np.testing.assert_allclose(shares, [weights / total[i : i + 16] for i in first], rtol=1e-6)


@pytest.mark.parametrize("context", [3, 5, 16])
@pytest.mark.parametrize("frames", [1, 3, 5, 17, 30, 61])
def test_shares_of_each_frame_sum_to_one(frames, context):
    first, shares = free_noise_windows(frames, context=context)
    total = np.zeros(frames)
    for i, share in zip(first, shares, strict=True):
        total[i : i + len(share)] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert first[0] == 0
    assert first[-1] + shares.shape[1] == frames
