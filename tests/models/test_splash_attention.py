"""Splash attention: the kernel, in Pallas' interpreter, equals the plain form; where TPUs have it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.models import attention as forms
from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.splash_attention import has_blocks, splash_attention
from magicvideo_jax.parallel.device_shards import has_own_shards, on_own_shards
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh

interpreted = partial(splash_attention, interpret=True)


def draw(*batch: int, queries: int = 128, keys: int = 128, n: int = 2, d: int = 40):
    """q, k, v, and what a loss weighs the values by."""
    rng = np.random.default_rng(keys)
    lengths = (queries, keys, keys, queries)
    return [jnp.asarray(rng.standard_normal((*batch, x, n, d)), jnp.float32) for x in lengths]


def plain(q, k, v):
    return forms._plain(q, k, v, None)


def values_and_gradients(form, q, k, v, weights, dtype=jnp.float32):
    def loss(*tokens):
        values = form(*(x.astype(dtype) for x in tokens)).astype(jnp.float32)
        return (values * weights).sum(), values

    gradients, values = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [values, *gradients]


def assert_equals_plain(form, drawn):
    """Values within 1e-6 and gradients within 1e-5."""
    found, expected = (values_and_gradients(one, *drawn) for one in (form, plain))
    for tolerance, one, other in zip((1e-6, *[1e-5] * 3), found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.parametrize(
    ("queries", "keys", "d"), [(128, 128, 40), (256, 384, 8), (384, 1024, 160)]
)
def test_equals_the_plain_form(queries, keys, d):
    """Also of several blocks of queries and keys."""
    assert_equals_plain(interpreted, draw(1, 2, queries=queries, keys=keys, d=d))


@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=2, frames=2), MeshConfig(fsdp=8)])
def test_equals_the_plain_form_on_eight_devices(mesh):
    drawn = draw(8, 2, n=1, d=8)
    with jax.set_mesh(make_mesh(mesh)):
        assert_equals_plain(jax.checkpoint(partial(on_own_shards, interpreted)), drawn)


def test_in_bfloat16_one_rounding_of_the_scaled_queries_is_all_it_adds():
    """Distances from float32, beside those of the plain form, which rounds q, k, v and weights."""
    drawn = draw(1, 2)
    exact = values_and_gradients(plain, *drawn)

    def distances(form):
        found = values_and_gradients(form, *drawn, dtype=jnp.bfloat16)
        return np.array(
            [jnp.linalg.norm(x - y) / jnp.linalg.norm(y) for x, y in zip(found, exact, strict=True)]
        )

    ratios = distances(interpreted) / distances(plain)
    assert (ratios < 1.25).all(), ratios


def kernels_on_tpu(q, k, v, mask=None):
    """Kernels of a program, forward and backward, that is lowered for TPUs."""
    traced = jax.jit(jax.grad(lambda q: attend(q, k, v, mask).sum())).trace(q)
    return traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call")


@pytest.mark.parametrize(
    ("queries", "keys", "d", "kernels"),
    [
        (1024, 1024, 40, 2),
        (128, 1024, 40, 2),
        (512, 512, 40, 0),
        (1024, 77, 40, 0),
        (1000, 1024, 40, 0),
        (1024, 1100, 40, 0),
        (1024, 1024, 512, 0),
    ],
)
def test_tpus_have_it_where_keys_are_many_and_blocks_divide_them(queries, keys, d, kernels):
    q, k, v, _ = draw(8, 1, queries=queries, keys=keys, n=1, d=d)
    assert has_blocks(queries, keys, d) or kernels == 0
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert kernels_on_tpu(q, k, v) == kernels
        assert kernels_on_tpu(q, k, v, jnp.ones((1, keys), bool)) == 0


@pytest.mark.parametrize(
    ("shape", "mesh", "divides"),
    [
        ((8, 2), MeshConfig(), True),
        ((4, 2), MeshConfig(), False),
        ((4, 2), MeshConfig(fsdp=4, data=1, frames=2), True),
        ((4, 1), MeshConfig(fsdp=4, data=1, frames=2), False),
        ((4,), MeshConfig(fsdp=4, data=1, frames=2), False),
        ((8,), MeshConfig(), True),
        ((), MeshConfig(), False),
    ],
)
def test_shards_are_clips_and_frames(shape, mesh, divides):
    with jax.set_mesh(make_mesh(mesh)):
        assert has_own_shards(shape) is divides
        alone = jax.shard_map(
            lambda x: jnp.full(x.shape, has_own_shards(shape)),
            in_specs=jax.P(),
            out_specs=jax.P(),
            check_vma=False,
        )
        assert alone(jnp.zeros(1)).all()  # a device that computes alone
    assert not has_own_shards(shape)  # eight devices, and nobody says which holds what


def test_tokens_are_never_sharded():
    """Devices that share clips would hold parts of the keys where a batch has no axis of frames."""
    q, k, v, _ = draw(4, queries=1024, keys=1024, n=1, d=8)
    with jax.set_mesh(make_mesh(MeshConfig(data=4, frames=2))):
        assert kernels_on_tpu(q, k, v) == 0
        assert kernels_on_tpu(*(x[:, None].repeat(2, 1) for x in (q, k, v))) == 2


def test_with_it_for_tpus_eight_devices_still_equal_one_elsewhere():
    """The gradient of a choice by platform holds every form's, the sharded kernel's too."""
    drawn = draw(8, 1, queries=8 * 16, keys=1024, n=1, d=8)
    expected = values_and_gradients(plain, *drawn)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=4))):
        found = values_and_gradients(jax.checkpoint(attend), *drawn)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
