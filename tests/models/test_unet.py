"""The image form of VideoUNet is Stable Diffusion's U-Net: parity with diffusers on random weights."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from tiny import equations, quick, random_params
from torch_weights import copied, from_torch, randomise, relative_error, to_torch

from magicvideo_jax.core.tree import count_parameters, size_in_bytes
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.unet import SD1, SD2, SD_X4, UNetConfig, UNetLevelConfig, VideoUNet
from magicvideo_jax.weights.config_json import unet_json
from magicvideo_jax.weights.tables.unet_keys import UNET_TABLE

TINY_SD1 = UNetConfig(
    levels=(UNetLevelConfig(32, 4), UNetLevelConfig(64, 4), UNetLevelConfig(64, 0)),
    middle_heads=4,
    context=24,
    groups=8,
    blocks=1,
)
TINY_SD2 = UNetConfig(
    levels=(UNetLevelConfig(32, 2), UNetLevelConfig(64, 4), UNetLevelConfig(96, 0)),
    middle_heads=6,
    context=40,
    groups=8,
    linear_projection=True,
)
TINY_LCM = replace(TINY_SD1, guidance_channels=16)
TINY_X4 = UNetConfig(
    levels=(
        UNetLevelConfig(32, 0),
        UNetLevelConfig(48, 4, text_only=True),
        UNetLevelConfig(64, 4),
    ),
    middle_heads=4,
    context=40,
    groups=8,
    blocks=1,
    channels_in=7,
    linear_projection=True,
    noise_levels=350,
)


def torch_unet(config: UNetConfig) -> UNet2DConditionModel:
    """diffusers' network of the same numbers."""
    return UNet2DConditionModel.from_config(unet_json(config))


def compare(
    config: UNetConfig, theirs: UNet2DConditionModel, apply, params, *, shape: tuple[int, ...]
) -> float:
    """Relative error on clips of `shape` (b, t, h, w): frames share their clip's time and text."""
    b, t = shape[:2]
    draw = np.random.default_rng(sum(shape))
    z = draw.normal(size=(*shape, config.channels_in)).astype(np.float32)
    time = np.linspace(3, 990, b).astype(np.float32)
    text = draw.normal(size=(b, 7, config.context)).astype(np.float32)
    levels = np.arange(b) + 20 if config.noise_levels else None
    scales = 2.0 + np.arange(b, dtype=np.float32) if config.guidance_channels else None
    with torch.no_grad():
        expected = theirs(
            to_torch(z),
            torch.from_numpy(time.repeat(t)),
            torch.from_numpy(text.repeat(t, axis=0)),
            class_labels=None if levels is None else torch.from_numpy(levels.repeat(t)),
            timestep_cond=None
            if scales is None
            else guidance_embedding(scales, config).repeat(t, 1),
        ).sample
    inputs = [jnp.array(x) for x in (z, time, text)]
    more = (
        None,
        None if levels is None else jnp.array(levels, jnp.int32),
        None if scales is None else jnp.array(scales),
    )
    return relative_error(apply(params, *inputs, *more), from_torch(expected, (b, t)))


def test_its_own_deep_features_change_nothing_and_those_of_another_time_do():
    network = bind(lambda keys: VideoUNet(TINY_SD1, keys=keys))
    params = random_params(network.shapes)
    reusing = quick(network.method(lambda unet, *inputs: unet.reusing(*inputs)))
    draw = np.random.default_rng(0)
    z = jnp.array(draw.normal(size=(1, 2, 8, 12, 4)), jnp.float32)
    text = jnp.array(draw.normal(size=(1, 7, TINY_SD1.context)), jnp.float32)

    def at(time, deep=None):
        return reusing(params, z, jnp.array([time]), text, None, None, None, deep)

    output, deep = at(300.0)
    np.testing.assert_allclose(at(300.0, deep)[0], output, rtol=1e-5, atol=1e-5)
    assert deep.shape == (1, 2, 8, 12, 64)
    changed = relative_error(at(300.0, at(900.0)[1])[0], output)
    assert changed > 1e-3


def guidance_embedding(scales: np.ndarray, config: UNetConfig) -> torch.Tensor:
    """What diffusers' pipeline of latent consistency models gives its U-Net."""
    less_one = torch.from_numpy(scales) - 1
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return embed(None, less_one, embedding_dim=config.guidance_channels)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        pytest.param(TINY_SD1, (2, 3, 8, 12), id="sd1-even"),
        pytest.param(TINY_SD1, (1, 1, 11, 14), id="sd1-cut"),
        pytest.param(TINY_SD2, (1, 2, 12, 20), id="sd2-odd"),
        pytest.param(TINY_SD2, (1, 1, 11, 14), id="sd2-cut"),
        pytest.param(TINY_X4, (2, 2, 8, 12), id="x4"),
        pytest.param(TINY_LCM, (2, 1, 8, 12), id="lcm"),
    ],
)
def test_it_equals_diffusers(config: UNetConfig, shape: tuple[int, ...]):
    """8 x 12 halves evenly, 12 x 20 ends odd, 11 x 14 rounds up on the way down and is cut on the way up."""
    theirs = randomise(torch_unet(config))
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    params = copied(UNET_TABLE, network.shapes, theirs.state_dict())
    error = compare(config, theirs, quick(network.apply), params, shape=shape)
    print(f"relative error {error:.1e}")
    assert error < 1e-4


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(SD1, 859_520_964), (SD2, 865_910_724), (SD_X4, 473_398_020)],
    ids=["sd1", "sd2", "x4"],
)
def test_full_size_counts(config: UNetConfig, parameters: int):
    assert count_parameters(bind(lambda keys: VideoUNet(config, keys=keys)).shapes) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("config", [SD1, SD2, SD_X4], ids=["sd1", "sd2", "x4"])
def test_full_size_equals_diffusers(config: UNetConfig):
    theirs = randomise(torch_unet(config))
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    params = copied(UNET_TABLE, network.shapes, theirs.state_dict())
    assert count_parameters(params) == count_parameters(network.shapes)
    for shape in ((1, 2, 32, 32), (1, 1, 64, 40), (1, 1, 40, 24)):
        error = compare(config, theirs, jax.jit(network.apply), params, shape=shape)
        print(f"latents {shape}: relative error {error:.1e}")
        assert error < 1e-4


SMALL = UNetConfig(levels=(UNetLevelConfig(16, 2),), middle_heads=2, blocks=1, context=8, groups=4)


def inputs(
    b: int = 2, t: int = 2, h: int = 8, w: int = 8
) -> tuple[jax.Array, jax.Array, jax.Array]:
    z, text = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(b, t, h, w, 4), (b, 5, SMALL.context)])
    )
    return z, jnp.linspace(10.0, 900.0, b), text


def test_bfloat16_stays_near_float32():
    params = random_params(bind(lambda keys: VideoUNet(SMALL, keys=keys)).shapes)
    exact, rounded = (
        quick(bind(lambda keys, dtype=dtype: VideoUNet(SMALL, keys=keys, dtype=dtype)).apply)(
            params, *inputs()
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert exact.dtype == rounded.dtype == jnp.float32
    distance = float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))
    print(f"bfloat16: rms distance {distance:.2%}, max {relative_error(rounded, exact):.2%}")
    assert 0 < distance < 0.03


def test_norms_softmax_and_time_embedding_are_float32():
    network = bind(lambda keys: VideoUNet(SMALL, keys=keys, dtype=jnp.bfloat16))
    found = list(equations(jax.make_jaxpr(network.apply)(network.shapes, *inputs()).jaxpr))
    delicate = {
        "reduce_sum",
        "reduce_max",
        "exp",
        "exp2",
        "rsqrt",
        "sqrt",
        "div",
        "sin",
        "cos",
        "square",
    }
    low = {e.primitive.name for e in found for x in e.invars if x.aval.dtype == jnp.bfloat16}
    assert {"dot_general", "conv_general_dilated"} <= low, "the heavy parts compute in bfloat16"
    assert not delicate & low
    names = {e.primitive.name for e in found}
    assert {"reduce_sum", "rsqrt", "sin", "cos"} <= names
    # The two layers of the time embedding, and no other product of matrices, are float32. Norms sum by vectors of ones.
    exact = [
        e.invars[1].aval.shape
        for e in found
        if e.primitive.name == "dot_general"
        and e.invars[0].aval.dtype == jnp.float32
        and min(axes_of_a_product(e)) > 1
    ]
    assert exact == [(16, 64), (64, 64)]


def axes_of_a_product(product) -> list[int]:
    """Axes of each operand of a product that are no batch axes."""
    _, batch = product.params["dimension_numbers"]
    return [x.aval.ndim - len(axes) for x, axes in zip(product.invars, batch, strict=True)]


def test_remat_changes_memory_and_nothing_else():
    networks = {
        remat: bind(lambda keys, remat=remat: VideoUNet(SMALL, keys=keys, remat=remat))
        for remat in Remat
    }
    params = random_params(networks[Remat.NONE].shapes)
    results, kept = {}, {}
    for remat, network in networks.items():

        def loss(p, apply=network.apply):
            out = apply(p, *inputs())
            return jnp.square(out).mean(), out

        results[remat] = quick(jax.value_and_grad(loss, has_aux=True))(params)
        kept[remat] = size_in_bytes(
            jax.eval_shape(lambda p, f=loss: jax.vjp(f, p, has_aux=True)[1], params)
        )
    print({remat.value: f"{size / 2**20:.1f} MiB kept" for remat, size in kept.items()})
    assert list(kept) == list(Remat)
    assert all(more > 1.2 * less for more, less in pairwise(kept.values())), "least kept comes last"
    expected = jax.tree.leaves(results[Remat.NONE])
    for remat in Remat:
        differences = [
            a - b for a, b in zip(jax.tree.leaves(results[remat]), expected, strict=True)
        ]
        assert optax.tree.norm(differences) <= 1e-6 * optax.tree.norm(expected)
        for difference, b in zip(differences, expected, strict=True):
            assert optax.tree.norm(difference) <= 1e-5 * optax.tree.norm(b)


def test_text_by_frame_computes_the_same():
    network, by_frame = (
        bind(lambda keys, each=each: VideoUNet(SMALL, keys=keys, text_by_frame=each))
        for each in (False, True)
    )
    params = random_params(network.shapes)
    expected, seen = (quick(one.apply)(params, *inputs()) for one in (network, by_frame))
    np.testing.assert_allclose(seen, expected, atol=1e-5 * float(jnp.abs(expected).max()))
