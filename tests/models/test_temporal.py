"""Laws of what MagicVideo adds: it begins as nothing, and directed attention never looks ahead.

Nothing is jitted here: the networks share their operations, which compile once, while each whole would take seconds.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.models.bind import Keys, Network, bind
from magicvideo_jax.models.blocks import ResnetBlock
from magicvideo_jax.models.frame_layers import FrameAdaptor, TemporalShift
from magicvideo_jax.models.temporal import (
    LATENT_SHIFT,
    PositionEncoding,
    TemporalConfig,
    TemporalMask,
    TemporalMixing,
)
from magicvideo_jax.models.temporal_attention import (
    TemporalAttention,
    apply_rope,
    attend_directed_post_softmax,
)
from magicvideo_jax.models.temporal_layers import temporal_layers
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet

FRAMES = 4
IMAGE = UNetConfig(
    levels=(UNetLevelConfig(16, 2), UNetLevelConfig(16, 0)),
    middle_heads=2,
    blocks=1,
    context=8,
    groups=4,
)
SHIFTS = (TemporalMixing.SHIFT, TemporalMixing.SHIFT_AT_START)
ATTENDING = [mixing for mixing in TemporalMixing if mixing not in (*SHIFTS, TemporalMixing.NONE)]


def unet(temporal: TemporalConfig | None) -> Network:
    return bind(lambda keys: VideoUNet(replace(IMAGE, temporal=temporal), keys=keys))


def clip(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unet_inputs(t: int = FRAMES) -> tuple[jax.Array, ...]:
    """z, time, text, frames per second of two clips."""
    return (
        clip(2, FRAMES, 4, 4, 4)[:, :t],
        jnp.array([10.0, 700.0]),
        clip(2, 3, 8, seed=1),
        jnp.array([2.0, 8.0]),
    )


def frames_changed(apply, z: jax.Array, k: int) -> np.ndarray:
    """Which frames of `apply(z)` change, at all, when frame `k` of z does."""
    before, after = apply(z), apply(z.at[:, k].set(clip(*z[:, 0].shape, seed=9)))
    return np.asarray((before != after).any(axis=(0, 2, 3, 4)))


WAYS = [
    *(TemporalConfig(FRAMES, mixing=mixing) for mixing in TemporalMixing if mixing not in SHIFTS),
    *(TemporalConfig(FRAMES, mask=mask) for mask in (TemporalMask.POST_SOFTMAX, TemporalMask.NONE)),
    *(
        TemporalConfig(FRAMES, position=position)
        for position in (PositionEncoding.LEARNED, PositionEncoding.ROPE)
    ),
    TemporalConfig(
        FRAMES,
        mixing=TemporalMixing.LAVIE,
        mask=TemporalMask.NONE,
        position=PositionEncoding.ROPE,
        adaptors=False,
    ),
]


@pytest.mark.parametrize(
    "temporal",
    WAYS,
    ids=lambda w: f"{w.mixing.value}-{w.mask.value}-{w.position.value}-{w.adaptors}",
)
def test_a_fresh_video_network_is_its_image_network(temporal: TemporalConfig):
    image, video = unet(None), unet(temporal)
    weights = flatten(random_params(image.shapes))
    added = {
        path: leaf
        for path, leaf in flatten(video.init(jax.random.key(0))).items()
        if path not in weights
    }
    assert added
    params = unflatten(added | weights)
    z, time, text, fps = unet_inputs()
    frames = image.apply(unflatten(weights), z, time, text)
    np.testing.assert_allclose(video.apply(params, z, time, text, fps), frames, rtol=0, atol=1e-5)

    # With all its parts at work it is another network.
    params = unflatten(flatten(random_params(video.shapes)) | weights)
    assert jnp.abs(video.apply(params, z, time, text, fps) - frames).max() > 0.1


def test_frames_of_the_image_form_do_not_meet():
    network = unet(None)
    params, (z, time, text, _) = random_params(network.shapes), unet_inputs()
    changed = frames_changed(lambda z: network.apply(params, z, time, text), z, 1)
    assert changed.tolist() == [False, True, False, False]


def attention(**options) -> tuple[Network, dict]:
    network = bind(
        lambda keys: TemporalAttention(TemporalConfig(FRAMES, **options), 16, heads=2, keys=keys)
    )
    return network, random_params(network.shapes)


@pytest.mark.parametrize("position", PositionEncoding)
def test_directed_attention_never_looks_ahead(position: PositionEncoding):
    network, params = attention(position=position)
    for k in range(FRAMES):
        changed = frames_changed(lambda z: network.apply(params, z), clip(2, FRAMES, 2, 3, 16), k)
        assert changed.tolist() == [i >= k for i in range(FRAMES)]


@pytest.mark.parametrize("mask", [TemporalMask.NONE, TemporalMask.POST_SOFTMAX])
def test_the_other_masks_do_look_ahead(mask: TemporalMask):
    """The literal form too: a later frame stands in the softmax's denominator."""
    network, params = attention(mask=mask)
    changed = frames_changed(
        lambda z: network.apply(params, z), clip(2, FRAMES, 2, 3, 16), FRAMES - 1
    )
    assert changed.all()


@pytest.mark.parametrize("mixing", ATTENDING)
def test_a_directed_network_never_looks_ahead(mixing: TemporalMixing):
    network = unet(TemporalConfig(FRAMES, mixing=mixing))
    params, (z, *rest) = random_params(network.shapes), unet_inputs()
    changed = frames_changed(lambda z: network.apply(params, z, *rest), z, 2)
    assert changed.tolist() == [False, False, True, True]

    # Hence a shorter clip, which reads the first rows of every adaptor, is the beginning of a longer one.
    short, long = (network.apply(params, z[:, :t], *rest) for t in (2, FRAMES))
    np.testing.assert_allclose(short, long[:, :2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "temporal",
    [
        TemporalConfig(FRAMES, mask=TemporalMask.NONE),
        *(TemporalConfig(FRAMES, mixing=mixing) for mixing in SHIFTS),
    ],
    ids=["no mask", "shift", "shift at start"],
)
def test_a_network_without_direction_does_look_ahead(temporal: TemporalConfig):
    network = unet(temporal)
    params, (z, *rest) = random_params(network.shapes), unet_inputs()
    assert frames_changed(lambda z: network.apply(params, z, *rest), z, FRAMES - 1)[:-1].any()


def test_post_softmax_is_the_equation_read_literally():
    """A = softmax(q k^T / sqrt(d)) * M, M lower triangular, per pixel and head."""
    q, k, v = (np.asarray(clip(1, FRAMES, 3, 2, 5, seed=i), np.float64) for i in range(3))
    expected = np.zeros_like(q)
    for pixel in range(3):
        for head in range(2):
            at = 0, slice(None), pixel, head
            scores = q[at] @ k[at].T / np.sqrt(5)
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            expected[at] = (weights * np.tri(FRAMES)) @ v[at]
    ours = attend_directed_post_softmax(*(jnp.array(x, jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_shift_takes_a_third_from_each_neighbour():
    z = np.asarray(clip(2, FRAMES, 2, 3, 7))
    expected = np.zeros_like(z)
    for i in range(FRAMES):
        expected[:, i, ..., :2] = z[:, i - 1, ..., :2] if i > 0 else 0
        expected[:, i, ..., 2:5] = z[:, i, ..., 2:5]
        expected[:, i, ..., 5:] = z[:, i + 1, ..., 5:] if i < FRAMES - 1 else 0
    np.testing.assert_array_equal(TemporalShift()(jnp.array(z)), expected)


def test_a_block_adds_what_its_last_convolution_gives_shifted():
    """Past, present, future. A residual block whose last convolution is the identity, with the
    shift behind it and without."""
    blocks = [
        bind(
            lambda keys, layers=layers: ResnetBlock(
                6, 6, groups=2, eps=1e-5, keys=keys, layers=layers
            )
        )
        for layers in ((), temporal_layers(LATENT_SHIFT))
    ]
    params = random_params(blocks[0].shapes)
    params["conv2"] = {
        "kernel": jnp.zeros((3, 3, 6, 6)).at[1, 1].set(jnp.eye(6)),
        "bias": jnp.zeros(6),
    }
    z = clip(2, FRAMES, 4, 4, 6)
    branch, shifted = (np.asarray(block.apply(params, z) - z) for block in blocks)
    past, future = (np.pad(branch, [(0, 0), side, *[(0, 0)] * 3]) for side in ((1, 0), (0, 1)))
    np.testing.assert_allclose(shifted[..., :2], past[:, :-1, ..., :2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(shifted[..., 2:4], branch[..., 2:4], rtol=0, atol=1e-5)
    np.testing.assert_allclose(shifted[..., 4:], future[:, 1:, ..., 4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixing", SHIFTS)
def test_a_shifted_still_is_the_image_networks_away_from_the_ends(mixing: TemporalMixing):
    """The ends reach as many frames inwards as residual blocks lie behind one another."""
    shift = replace(LATENT_SHIFT, mixing=mixing)
    one_level = replace(IMAGE, levels=IMAGE.levels[:1])
    image, video = (
        bind(lambda keys, t=temporal: VideoUNet(replace(one_level, temporal=t), keys=keys))
        for temporal in (None, shift)
    )
    assert image.shapes == video.shapes  # no adaptors, no frame rate: no parameters
    blocks = sum(path.endswith("resnet.conv1.kernel") for path in flatten(video.shapes))
    params, (z, time, text, fps) = random_params(video.shapes), unet_inputs()
    frames = 2 * blocks + 2
    still = jnp.broadcast_to(z[:, :1], (len(z), frames, *z.shape[2:]))
    expected = image.apply(params, still, time, text)
    shifted = video.apply(params, still, time, text, fps)
    np.testing.assert_allclose(
        shifted[:, blocks:-blocks], expected[:, blocks:-blocks], rtol=0, atol=1e-5
    )
    assert jnp.abs(shifted - expected)[:, [0, -1]].max(axis=(2, 3, 4)).min() > 1e-3
    # A single frame has neither past nor future.
    assert jnp.abs(video.apply(params, z[:, :1], time, text) - expected[:, :1]).max() > 0.01


@pytest.mark.parametrize("width", [6, 32, 40])
def test_rotation_makes_scores_depend_on_the_distance_alone(width: int):
    """One vector at every frame: the score of frames i and j is a function of i - j, and lengths stay."""
    q, k = (
        jnp.broadcast_to(clip(1, 1, 1, 1, width, seed=i), (1, 6, 1, 1, width)) for i in range(2)
    )
    turned_q, turned_k = apply_rope(q), apply_rope(k)
    scores = np.asarray(jnp.einsum("bipnd,bjpnd->ij", turned_q, turned_k))
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores[0]) > 0.1
    np.testing.assert_allclose(
        jnp.linalg.norm(turned_q, axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5
    )
    np.testing.assert_array_equal(turned_q[:, 0], q[:, 0])


def test_an_adaptor_scales_and_shifts_each_frame():
    network = bind(lambda keys: FrameAdaptor(FRAMES, 5))
    z, params = clip(2, 3, 2, 2, 5), random_params(network.shapes)
    scale, shift = params["scale"][:3, None, None], params["shift"][:3, None, None]
    np.testing.assert_allclose(
        network.apply(params, z), z * (1 + scale[None]) + shift[None], rtol=1e-6
    )
    nothing = network.init(jax.random.key(0))
    np.testing.assert_array_equal(network.apply(nothing, z), z)


def test_learned_positions_tell_frames_apart():
    """Frames of one content, seen by all: alike without positions, different with them."""
    same = jnp.broadcast_to(clip(1, 1, 2, 2, 16), (1, FRAMES, 2, 2, 16))
    plain, learned = (
        attention(mask=TemporalMask.NONE, position=p)
        for p in (PositionEncoding.NONE, PositionEncoding.LEARNED)
    )
    out, told = plain[0].apply(plain[1], same), learned[0].apply(learned[1], same)
    np.testing.assert_allclose(out, jnp.broadcast_to(out[:, :1], out.shape), rtol=0, atol=1e-6)
    assert jnp.abs(told[:, 0] - told[:, 1]).max() > 1e-3


def test_the_frame_rate_is_heard_once_its_embedding_has_grown():
    network = unet(TemporalConfig(FRAMES))
    params, (z, time, text, fps) = random_params(network.shapes), unet_inputs()
    apply = network.apply
    assert (
        jnp.abs(apply(params, z, time, text, fps) - apply(params, z, time, text, fps + 10)).max()
        > 1e-3
    )


def test_keys_differ_and_repeat():
    first, second = Keys(jax.random.key(3)), Keys(jax.random.key(3))
    a, b = first(), first()
    assert a != b
    assert a == second()
