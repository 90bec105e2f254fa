"""Losses of latent flow, their gradients and batch statistics, against a twin in torch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tiny import quick
from torch.nn import functional as F
from torch_latent_flow import AntiAlias, TorchLatentFlow, first, last, weights_alone
from torch_latent_flow_loss import KERNEL, torch_loss
from torch_norms import randomise_norms
from torch_weights import copied, relative_error

from magicvideo_jax.core.tree import flatten, split_by_path
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.lfdm.batch_norm import is_statistic
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlow, LatentFlowConfig
from magicvideo_jax.models.vgg19 import VGG19, VGG19_LAYERS
from magicvideo_jax.training.batch_statistics import moved_towards
from magicvideo_jax.training.colour_jitter import ColourJitterConfig, jittered
from magicvideo_jax.training.equivariance import draw_warp
from magicvideo_jax.training.latent_flow_objective import (
    LatentFlowLossConfig,
    LatentFlowNetworks,
    draw_pairs,
    latent_flow_loss,
)
from magicvideo_jax.training.optimizer import OptimConfig, make_optimizer
from magicvideo_jax.weights.tables.lfdm_keys import LATENT_FLOW_TABLE

SMALL = LatentFlowConfig(
    regions=2,
    region_net=HourglassConfig(2, 8, 2),
    background_net=HourglassConfig(2, 8, 2),
    flow_net=HourglassConfig(2, 8, 2),
    width=2,
    max_width=8,
    residuals=1,
)
LOSS = LatentFlowLossConfig()


def features(_, x):
    """A stand-in for VGG-19: two maps."""
    y = jax.lax.conv_general_dilated(
        x, jnp.asarray(KERNEL, x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = jax.nn.relu(y)
    return [y, y[:, ::2, ::2]]


def problem(dtype: str):
    """Our networks and the twin with the same weights, two pairs and a warp, in a type of numbers."""
    twin = randomise_norms(TorchLatentFlow(SMALL)).requires_grad_(True)
    twin = twin.to(getattr(torch, dtype)).train()
    with torch.no_grad():
        twin.region_predictor.regions.weight *= 0.1
    for net in (twin.region_predictor, twin.generator.pixelwise_flow_predictor):
        net.down = AntiAlias(3, 0.25).to(getattr(torch, dtype))
    network = bind(lambda keys: LatentFlow(SMALL, keys=keys, dtype=dtype))
    state = {k: x.detach() for k, x in twin.state_dict().items()}
    params = copied(LATENT_FLOW_TABLE, network.shapes, weights_alone(state))
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    draw = np.random.default_rng(0).uniform(0, 1, (4, 9, 9, 3))
    pictures = jnp.clip(jax.image.resize(draw, (4, 32, 32, 3), "cubic"), 0, 1).astype(dtype)
    warp = draw_warp(jax.random.key(0), 2, affine=0.05, bends=0.005)
    warp = jax.tree.map(lambda x: x.astype(dtype), warp)
    train = network.method(LatentFlow.train_on)
    networks = LatentFlowNetworks(
        lambda params, *pictures: train(params["flow"], *pictures), features, "flow"
    )
    loss = partial(
        latent_flow_loss,
        networks,
        source=pictures[:2],
        driving=pictures[2:],
        warp=warp,
        config=LOSS,
    )
    theirs = torch_loss(twin, first(pictures[:2]), first(pictures[2:]), warp)
    return network, {"flow": params}, loss, twin, theirs


def test_losses_equal_torchs():
    _, params, loss, _, theirs = problem("float32")
    ours = quick(lambda p: loss(p)[0])(params)
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_gradients_and_statistics_equal_torchs_in_float64():
    with jax.enable_x64():
        network, params, loss, twin, theirs = problem("float64")
        ours, grads = quick(jax.value_and_grad(lambda p: loss(p)[0]))(params)
        # Torch's blurs are float32.
        assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-7)
        theirs.backward()
        expected = {
            k: torch.zeros_like(x) if x.grad is None else x.grad for k, x in twin.named_parameters()
        }
        buffers = {k: torch.zeros_like(x) for k, x in twin.named_buffers()}
        expected = flatten(
            copied(LATENT_FLOW_TABLE, network.shapes, weights_alone(expected | buffers))
        )
        moves, weights = split_by_path(grads["flow"], is_statistic)
        largest = max(float(np.abs(x).max()) for x in expected.values())
        errors = {}
        for path, x in flatten(weights).items():
            scale = max(float(np.abs(expected[path]).max()), 1e-6 * largest)
            errors[path] = float(np.abs(np.asarray(x - expected[path])).max()) / scale
        worst = max(errors, key=lambda path: errors[path])
        print(f"{len(errors)} gradients, worst {worst}: {errors[worst]:.1e}")
        assert errors[worst] < 1e-5

        state = {k: x.detach() for k, x in twin.state_dict().items()}
        after = flatten(copied(LATENT_FLOW_TABLE, network.shapes, weights_alone(state)))
        before = flatten(params["flow"])
        for path, x in flatten(moves).items():
            np.testing.assert_allclose(before[path] - x, after[path], rtol=1e-6, err_msg=path)


def test_the_optimizer_moves_statistics_to_where_their_gradients_say():
    params = {"net": {"norm": {"mean": jnp.ones(3), "scale": jnp.ones(3)}}}
    grads = {"net": {"norm": {"mean": jnp.full(3, 100.0), "scale": jnp.full(3, 1e-3)}}}
    optimizer = make_optimizer(OptimConfig(warmup=0, lr=0.1), 2, with_statistics=True)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = flatten(optax.apply_updates(params, updates))
    np.testing.assert_allclose(after["net.norm.mean"], -99)
    # Neither is clipped with the other.
    np.testing.assert_allclose(after["net.norm.scale"], 1 - 0.1 * (1 + 0.01), rtol=1e-3)


def test_moving_statistics_costs_nothing():
    params, moved = {"mean": jnp.arange(3.0), "kernel": jnp.ones(2)}, {"mean": jnp.full(3, 0.7)}
    value, grads = jax.value_and_grad(moved_towards)(params, moved)
    assert value == 0
    np.testing.assert_allclose(params["mean"] - grads["mean"], moved["mean"], rtol=1e-6)
    np.testing.assert_array_equal(grads["kernel"], 0)


def test_features_equal_those_of_torchs_layers():
    network = bind(lambda keys: VGG19(keys=keys))
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(
            draw.normal(size=x.shape) / np.prod(x.shape[:-1]) ** 0.5, jnp.float32
        ),
        network.shapes,
    )
    x = draw.uniform(0, 1, (1, 32, 32, 3)).astype(np.float32)
    y = (first(x) - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    theirs = []
    for place in VGG19_LAYERS:
        if place in (5, 10, 19, 28):
            y = F.max_pool2d(y, 2)
        layer = params["features"][f"conv{place}"]
        kernel = torch.from_numpy(np.asarray(layer["kernel"]).transpose(3, 2, 0, 1).copy())
        y = F.relu(F.conv2d(y, kernel, torch.from_numpy(np.array(layer["bias"])), padding=1))
        if place in (0, 5, 10, 19, 28):
            theirs.append(last(y))
    ours = jax.jit(network.apply)(params, x)
    assert [one.shape[-1] for one in ours] == [64, 128, 256, 512, 512]
    assert max(map(relative_error, ours, theirs)) < 1e-5


def test_pairs_are_two_frames_of_one_clip_the_earlier_first():
    pixels = np.zeros((3, 5, 16, 16, 3), np.uint8)
    pixels += (50 * np.arange(3)[:, None] + np.arange(5)[None]).astype(np.uint8)[
        ..., None, None, None
    ]
    config = LatentFlowLossConfig(pairs=4, flips=False)
    pairs = np.asarray(draw_pairs(jax.random.key(0), jnp.asarray(pixels), config)) * 255
    clip, moment = np.divmod(np.round(pairs[:, :, 0, 0, 0]), 50)
    assert (clip[:, 0] == clip[:, 1]).all()
    assert (moment[:, 0] <= moment[:, 1]).all()
    assert len({*map(tuple, moment)}) > 4
    reversed_too = draw_pairs(jax.random.key(0), jnp.asarray(pixels), LatentFlowLossConfig(pairs=4))
    moment = np.round(np.asarray(reversed_too)[:, :, 0, 0, 0] * 255) % 50
    assert (moment[:, 0] > moment[:, 1]).any()


def test_jitter_changes_all_frames_of_a_clip_alike_and_zeros_change_nothing():
    clips = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 1, 8, 8, 3)), jnp.float32)
    clips = jnp.repeat(clips, 3, axis=1)
    none = ColourJitterConfig()
    np.testing.assert_array_equal(jittered(jax.random.key(0), clips, none), clips)
    config = ColourJitterConfig(0.1, 0.1, 0.1, 0.1, shuffles=True)
    jitter = quick(lambda clips: jittered(jax.random.key(0), clips, config))
    changed = np.asarray(jitter(clips))
    np.testing.assert_allclose(changed, changed[:, :1].repeat(3, 1), atol=1e-6)
    assert np.abs(changed - clips).max() > 0.02
    assert changed.min() >= 0
    assert changed.max() <= 1
