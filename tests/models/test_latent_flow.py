"""LFDM's networks against twins in torch, whose weights come in the keys of its checkpoints."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny import quick
from torch_flow_unet import TorchFlowUNet
from torch_latent_flow import (
    AntiAlias,
    TorchLatentFlow,
    first,
    last,
    sampled,
    weights_alone,
)
from torch_norms import randomise_norms
from torch_weights import copied, randomise, relative_error

from magicvideo_jax.core.tree import count_parameters, flatten, split_by_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.lfdm.batch_norm import is_statistic, moved_statistics
from magicvideo_jax.models.lfdm.flow_sampling import Beyond, antialiased, sample_at
from magicvideo_jax.models.lfdm.flow_unet import FlowUNet, FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import (
    DecodedFrame,
    FlowField,
    LatentFlow,
    LatentFlowConfig,
)
from magicvideo_jax.models.lfdm.regions import covariance_root
from magicvideo_jax.weights.tables.lfdm_keys import FLOW_UNET_TABLES, LATENT_FLOW_TABLE

SMALL = LatentFlowConfig(
    regions=3,
    region_net=HourglassConfig(4, 16, 3),
    background_net=HourglassConfig(4, 16, 3),
    flow_net=HourglassConfig(4, 16, 3),
    width=4,
    max_width=16,
    residuals=2,
)
SMALL_UNET = FlowUNetConfig(width=8, multipliers=(1, 2), heads=2, groups=4, condition=6, feature=5)


def latent_flow_and_twin(config: LatentFlowConfig):
    twin = randomise_norms(TorchLatentFlow(config))
    twin.region_predictor.regions.weight *= 0.1  # regions of a few pixels at least, as trained ones
    network = bind(lambda keys: LatentFlow(config, keys=keys))
    return (
        network,
        copied(LATENT_FLOW_TABLE, network.shapes, weights_alone(twin.state_dict())),
        twin,
    )


def pictures(seed: int, number: int = 2, side: int = 64) -> jax.Array:
    """Smooth pictures in [0, 1], as frames are: noise would make steep sampling positions."""
    draw = np.random.default_rng(seed).uniform(0, 1, (number, 9, 9, 3)).astype(np.float32)
    smooth = jax.image.resize(draw, (number, side, side, 3), "cubic")
    return jnp.clip(smooth, 0, 1)


@pytest.mark.parametrize("padded", [False, True], ids=["MHAD", "MUG"])
def test_latent_flow_equals_torchs(padded: bool):
    """Flow, occlusion, feature, deformed picture and frame. The generator's positions are steep."""
    network, params, twin = latent_flow_and_twin(replace(SMALL, padded_regions=padded))
    source, driving = pictures(0), pictures(1)
    flow, occlusion, prediction, deformed = twin(first(source), first(driving))

    def all_of(module: LatentFlow) -> tuple[FlowField, jax.Array, DecodedFrame]:
        field = module.flow(source, driving)
        return field, module.feature(source), module.decode(source, field)

    ours, feature, frame = quick(network.method(all_of))(params)
    errors = {
        "flow": relative_error(ours.flow, flow.numpy()),
        "occlusion": relative_error(ours.occlusion, last(occlusion)),
        "feature": relative_error(feature, last(twin.generator.feature(first(source))[-1])),
    }
    frames = {
        "prediction": relative_error(frame.prediction, last(prediction)),
        "deformed": relative_error(frame.deformed, last(deformed)),
    }
    print({name: f"{error:.1e}" for name, error in (errors | frames).items()})
    assert max(errors.values()) < 2e-5
    assert max(frames.values()) < 1e-4


def test_regions_do_not_depend_on_signs_of_the_root():
    """Other roots, as PyTorch's, differ by the signs of their columns alone, one pair for all."""
    c = np.random.default_rng(0).normal(size=(7, 2, 2))
    c = c @ c.transpose(0, 2, 1)
    root = np.asarray(covariance_root(jnp.asarray(c, jnp.float32)))
    np.testing.assert_allclose(root @ root.transpose(0, 2, 1), c, rtol=1e-4, atol=1e-5)
    u, s, _ = torch.linalg.svd(torch.from_numpy(c))
    theirs = (u @ torch.diag_embed(s.sqrt())).numpy()
    np.testing.assert_allclose(np.abs(root), np.abs(theirs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("beyond", list(Beyond))
def test_samples_equal_torchs(beyond: Beyond):
    """Positions are inside, on the edges and far beyond them."""
    draw = np.random.default_rng(0)
    image = jnp.asarray(draw.normal(size=(2, 5, 7, 3)), jnp.float32)
    at = draw.uniform(-4, 4, (2, 6, 4, 2)).astype(np.float32)
    at[0, 0] = [[-1, -1], [1, 1], [-1, 1], [0, 0]]
    theirs = sampled(first(image), torch.from_numpy(at), beyond.value)
    assert relative_error(sample_at(image, jnp.asarray(at), beyond), last(theirs)) < 1e-5


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.125])
def test_blurred_pictures_equal_torchs(scale: float):
    x = pictures(0, side=40)
    assert relative_error(antialiased(x, scale), last(AntiAlias(3, scale)(first(x)))) < 5e-6


def test_statistics_move_as_torchs_in_training():
    """Three runs of the region predictor a step move its statistics three times, all others once."""
    network, params, twin = latent_flow_and_twin(SMALL)
    twin.train()
    source, driving, third = (pictures(seed) for seed in (0, 1, 2))

    def train(module: LatentFlow) -> tuple[jax.Array, Params]:
        module.train()
        frame = module(source, driving)
        module.region_predictor(third)
        return frame.prediction, moved_statistics(module)

    ours, moved = quick(network.method(train))(params)
    theirs = twin(first(source), first(driving))[2]
    twin.region_predictor(first(third))
    assert relative_error(ours, last(theirs)) < 2e-4
    after = copied(LATENT_FLOW_TABLE, network.shapes, weights_alone(twin.state_dict()))
    expected, _ = split_by_path(after, is_statistic)
    assert flatten(moved).keys() == flatten(expected).keys()
    for path, x in flatten(expected).items():
        np.testing.assert_allclose(flatten(moved)[path], x, rtol=1e-4, atol=1e-5, err_msg=path)
    assert (
        relative_error(
            flatten(moved)["generator.first.norm.mean"],
            flatten(params)["generator.first.norm.mean"],
        )
        > 0.01
    )


@pytest.mark.parametrize(
    "config",
    [
        SMALL_UNET,
        replace(SMALL_UNET, learned_null=True, upsampling=FlowUpsampling.NEAREST),
    ],
    ids=["MHAD and MUG", "NATOPS"],
)
def test_unet_equals_torchs(config: FlowUNetConfig):
    """One of two clips without a class; frames enough for distances that share a bucket."""
    twin = randomise(TorchFlowUNet(config))
    network = bind(lambda keys: FlowUNet(config, keys=keys))
    state = {
        f"denoise_fn.{key}": x for key, x in twin.state_dict().items() if not key.endswith("freqs")
    }
    params = copied(FLOW_UNET_TABLES[config.upsampling], network.shapes, state)
    draw = np.random.default_rng(0)
    z = draw.normal(size=(2, 12, 8, 8, 3)).astype(np.float32)
    feature = draw.normal(size=(2, 8, 8, 5)).astype(np.float32)
    time, has = np.array([3.0, 907.0], np.float32), np.array([1.0, 0.0], np.float32)
    condition = draw.normal(size=(2, 6)).astype(np.float32)
    ours = quick(network.apply)(params, z, time, feature, condition, has)
    with torch.no_grad():
        theirs = twin(
            torch.from_numpy(np.moveaxis(z, -1, 1).copy()),
            torch.from_numpy(time),
            first(feature),
            torch.from_numpy(condition),
            torch.from_numpy(has),
        )
    error = relative_error(ours, np.moveaxis(theirs.numpy(), 1, -1))
    print(f"{error:.1e}")
    assert error < 2e-5


def test_full_sizes_are_the_published_ones():
    auto_encoder = bind(lambda keys: LatentFlow(LatentFlowConfig(), keys=keys)).shapes
    _, weights = split_by_path(auto_encoder, is_statistic)
    assert {name: count_parameters(part) for name, part in weights.items()} == {
        "generator": 45_575_391,
        "region_predictor": 14_146_728,
        "bg_predictor": 6_282_438,
    }
    natops = FlowUNetConfig(learned_null=True, upsampling=FlowUpsampling.NEAREST)
    sizes = [
        count_parameters(bind(lambda keys, config=config: FlowUNet(config, keys=keys)).shapes)
        for config in (FlowUNetConfig(), natops)
    ]
    assert sizes == [42_731_203, 42_129_859]
