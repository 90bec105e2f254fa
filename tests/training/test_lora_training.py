"""LoRA in training: starts as nothing, is W + s down up in every layer, and alone has gradients and moments."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count_parameters, flatten, unflatten
from magicvideo_jax.experiment.config import Component, Experiment, check_field_exists
from magicvideo_jax.experiment.networks import Networks, model_params, run_shapes
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.temporal import MotionModuleConfig, TemporalConfig, TemporalMixing
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.parallel.mesh import abstract_mesh
from magicvideo_jax.planning.program_plan import quick_plan
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.training.lora import (
    LoRAConfig,
    LoRALayers,
    fresh_factors,
    lora_shapes,
    merge_lora,
)
from magicvideo_jax.training.optimizer import Freeze, OptimConfig
from magicvideo_jax.weights.components import TEXT, UNET
from magicvideo_jax.weights.lora.lora_factors import factors_fit, factors_of_torch, factors_to_torch


def lora_experiment(layers=LoRALayers.ALL, **changes) -> Experiment:
    lora = LoRAConfig(rank=2, alpha=1.0, layers=layers)
    return tiny(optim=OptimConfig(warmup=1, lr=1e-2, freeze=Freeze.LORA, lora=lora), **changes)


def test_kernels_of_every_kind_are_merged_as_the_formula_says():
    draw = np.random.default_rng(0)
    flat = {
        "a.kernel": draw.normal(size=(5, 7)),
        "a.bias": draw.normal(size=7),
        "b.kernel": draw.normal(size=(3, 3, 5, 7)),
        "a.lora_down": draw.normal(size=(5, 2)),
        "a.lora_up": draw.normal(size=(2, 7)),
        "b.lora_down": draw.normal(size=(3, 3, 5, 2)),
        "b.lora_up": draw.normal(size=(2, 7)),
    }
    params = unflatten({path: jnp.array(x, jnp.float32) for path, x in flat.items()})
    merged = flatten(merge_lora(params, LoRAConfig(rank=2, alpha=3.0)))
    assert merged.keys() == {"a.kernel", "a.bias", "b.kernel"}
    np.testing.assert_array_equal(merged["a.bias"], params["a"]["bias"])
    for layer in "ab":
        product = np.einsum("...ir,ro->...io", flat[f"{layer}.lora_down"], flat[f"{layer}.lora_up"])
        expected = flat[f"{layer}.kernel"] + 1.5 * product
        np.testing.assert_allclose(merged[f"{layer}.kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [(5, 7), (1, 1, 5, 7), (3, 3, 5, 7), (3, 1, 1, 5, 7)])
def test_layouts_of_factors_are_inverse(kernel):
    draw = np.random.default_rng(0)
    down, up = draw.normal(size=(*kernel[:-1], 2)), draw.normal(size=(2, kernel[-1]))
    theirs = factors_to_torch(down, up)
    assert theirs[0].shape == (2, kernel[-2], *kernel[:-2])
    assert factors_fit(kernel, theirs[0].shape, theirs[1].shape)
    for ours, again in zip((down, up), factors_of_torch(kernel, *theirs), strict=True):
        np.testing.assert_array_equal(ours, again)


def full_size(kind, config, layers):
    return flatten(lora_shapes(kind.network(config).shapes, LoRAConfig(rank=64, layers=layers)))


def test_at_full_size_the_sets_of_layers_are_those_of_the_trainers():
    """kohya's 192 and 72; diffusers' 128; MagicVideo's 16 transformers with a temporal attention each; MotionLoRA's and
    the domain adapter's sizes, as published."""
    assert len(full_size(UNET, SD1, LoRALayers.TRANSFORMERS)) == 2 * 192
    assert len(full_size(UNET, SD1, LoRALayers.ATTENTION)) == 2 * 128
    assert len(full_size(UNET, SD1, LoRALayers.TEMPORAL)) == 0
    assert len(full_size(TEXT, TextConfig(), LoRALayers.TRANSFORMERS)) == 2 * 72
    assert len(full_size(TEXT, TextConfig(), LoRALayers.ATTENTION)) == 2 * 48
    video = replace(SD1, temporal=TemporalConfig())
    assert len(full_size(UNET, video, LoRALayers.TEMPORAL)) == 2 * 4 * 16
    assert len(full_size(UNET, video, LoRALayers.ALL)) == 2 * (192 + 4 * 16)
    motion = replace(
        SD1,
        temporal=TemporalConfig(
            frames=32,
            adaptors=False,
            mixing=TemporalMixing.NONE,
            motion=MotionModuleConfig(in_middle=True),
        ),
    )
    motion_lora = full_size(UNET, motion, LoRALayers.TEMPORAL)
    assert len(motion_lora) == 2 * 8 * 21
    assert count_parameters(motion_lora) == 19_333_120
    assert 2 * count_parameters(full_size(UNET, SD1, LoRALayers.ATTENTION)) == 25_509_888


@pytest.mark.parametrize("stage", ["video", "image"])
def test_a_run_begins_with_its_base_bit_for_bit(stage):
    experiment = lora_experiment(
        LoRALayers.TRANSFORMERS if stage == "image" else LoRALayers.ALL, stage=stage
    )
    networks = Networks(experiment.model)
    run = abstract_run(experiment, networks, abstract_mesh(experiment.mesh, 8))
    frozen = random_params(run.state.frozen)
    factors = jax.jit(lambda: fresh_factors(run.state.params, jax.random.key(0)))()
    merged, base = flatten(model_params(factors, frozen, experiment)), flatten(frozen)
    assert merged.keys() == base.keys()
    for path, x in merged.items():
        np.testing.assert_array_equal(x, base[path])
    downs = [x for path, x in flatten(factors).items() if path.endswith("lora_down")]
    assert downs
    assert all(0 < np.abs(x).max() <= np.prod(x.shape[:-1]) ** -0.5 for x in downs)


def test_only_factors_have_gradients_moments_and_averages():
    experiment = lora_experiment()
    run = abstract_run(
        experiment, Networks(experiment.model), abstract_mesh(experiment.mesh, devices=8)
    )
    trained = flatten(run.state.params)
    assert all(path.endswith((".lora_down", ".lora_up")) for path in trained)
    assert {path.split(".")[0] for path in trained} == {"unet"}
    assert flatten(run.state.ema).keys() == trained.keys()
    # Two moments, and the counts of the optimizer's parts.
    assert count_parameters(run.state.opt_state) - 2 * count_parameters(run.state.params) < 8
    frozen = {path for path in flatten(run.state.frozen) if not path.startswith("unet.")}
    assert {path.split(".")[0] for path in frozen} == {"vae", "text_encoder"}
    after, _ = jax.eval_shape(run.step, run.state, run.batch)
    assert jax.tree.structure(after) == jax.tree.structure(run.state)


def test_a_plan_counts_factors_and_the_whole_frozen_model():
    experiment = lora_experiment()
    plan = quick_plan(experiment, parse_topology("v5e:2x4"))
    shapes = abstract_run(
        experiment, Networks(experiment.model), abstract_mesh(experiment.mesh, 8)
    ).state
    factors, frozen = count_parameters(shapes.params), count_parameters(shapes.frozen)
    assert plan.parts["parameters"] == plan.parts["average"] == plan.parts["gradients"]
    assert plan.parts["parameters"] == 4 * factors
    assert plan.parts["frozen"] == 4 * frozen
    assert 0 < plan.parts["moments"] - 8 * factors <= 32


def test_the_text_encoder_gets_factors_when_it_is_named():
    experiment = lora_experiment(LoRALayers.TRANSFORMERS)
    model = replace(experiment.model, trained=(Component.UNET, Component.TEXT))
    experiment = replace(experiment, model=model)
    shapes = run_shapes(Networks(model), (Component.UNET, Component.TEXT), experiment)
    text = [path for path in flatten(shapes["text_encoder"]) if path.endswith("lora_down")]
    assert len(text) == 6  # of one layer


@pytest.mark.parametrize(
    ("layers", "changes", "said"),
    [
        (LoRALayers.TEMPORAL, {"stage": "image"}, "config.optim.lora.layers=temporal"),
        (LoRALayers.ALL, {"stage": "vae"}, r"config.model.trained \(vae\) has no such layers"),
    ],
)
def test_layers_that_are_not_there_are_named(layers, changes, said):
    experiment = lora_experiment(layers, **changes)
    with pytest.raises(UserError, match=said):
        abstract_run(experiment, Networks(experiment.model), abstract_mesh(experiment.mesh, 8))


def test_the_fields_are_those_of_a_config():
    for name in ("lora", "optim.lora.rank", "optim.lora.alpha", "optim.lora.layers"):
        check_field_exists(name)
    with pytest.raises(UserError, match="rank=0"):
        LoRAConfig(rank=0)
    with pytest.raises(UserError, match="alpha=-1"):
        LoRAConfig(alpha=-1.0)
