"""Forms for GPUs, which have gradients of their own: each equals autodiff of the plain form, and bfloat16 is no further
from float64 than there.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from magicvideo_jax.models import attend_heads as heads
from magicvideo_jax.models import group_norm as groups
from magicvideo_jax.models import layer_norm as rows
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.blocks import ResnetBlock, SpatialTransformer
from magicvideo_jax.models.layers import Conv
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.temporal_layers import temporal_layers
from magicvideo_jax.runtime.traced_gpu import tracing_for_gpu

C = 12


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def mask_and_bias():
    return jnp.tril(jnp.ones((16, 16), bool)), draw(3, 16, 16)


def attention(form):
    mask, bias = mask_and_bias()
    return lambda q, k, v: form(q, k, v, mask, bias)


def normed(form, *more):
    return lambda x, scale, bias: form(x, scale, bias, *more)


def norm_inputs(*shape):
    return draw(*shape), 1 + draw(shape[-1]) / 4, draw(shape[-1], seed=1)


SILU = 4, 1e-5, jax.nn.silu
FORMS = {
    "group norm and SiLU": (
        normed(groups._plain, *SILU),
        normed(groups._with_own_gradient, *SILU),
        norm_inputs(8, 2, 25, C),
    ),
    "layer norm": (
        normed(rows._plain, 1e-5),
        normed(rows._with_own_gradient, 1e-5),
        norm_inputs(8, 3, 5, C),
    ),
    "attention": (
        attention(heads.attend_heads),
        attention(heads.attend_heads_narrow),
        tuple(draw(8, 3, 16, 5, seed=i) for i in range(3)),
    ),
}
EVERY_FORM = pytest.mark.parametrize(("plain", "own", "inputs"), FORMS.values(), ids=FORMS)


def distance(seen, expected):
    seen, expected = (np.asarray(x, np.float64) for x in (seen, expected))
    return np.linalg.norm(seen - expected) / (np.linalg.norm(expected) + 1e-30)


def root_mean_square(values):
    return np.sqrt(np.square(values).mean())


def outputs_and_gradients(form, inputs):
    def both(*inputs):
        y, pull = jax.vjp(form, *inputs)
        return [y, *pull(draw(*y.shape, seed=9).astype(y.dtype))]

    return jax.jit(both)(*inputs)


@EVERY_FORM
def test_outputs_and_gradients_equal_those_of_the_plain_form(plain, own, inputs):
    expected = outputs_and_gradients(plain, inputs)
    seen = outputs_and_gradients(own, inputs)
    assert [x.dtype for x in seen] == [x.dtype for x in expected]
    assert distance(seen[0], expected[0]) < 1e-6
    for one, other in zip(seen[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-5


@EVERY_FORM
def test_bfloat16_is_no_further_from_float32_than_in_the_plain_form(plain, own, inputs):
    narrow = [inputs[0].astype(jnp.bfloat16), *inputs[1:]]
    if inputs[1].ndim > 1:  # attention: all three
        narrow = [x.astype(jnp.bfloat16) for x in inputs]
    exact = outputs_and_gradients(plain, [x.astype(jnp.float32) for x in narrow])
    errors = [
        root_mean_square([distance(one, true) for one, true in zip(seen, exact, strict=True)])
        for seen in (outputs_and_gradients(form, narrow) for form in (own, plain))
    ]
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize(("mean", "one_row_away"), [(0.0, 1e4), (1e5, 0.0)])
def test_variance_of_shifted_rows_is_as_exact_as_in_two_passes(mean, one_row_away):
    """E[x^2] - E[x]^2 would be lost entirely at a mean of 1e4 deviations."""
    x = np.random.default_rng(0).standard_normal((2, 1024, 8)) + mean
    x[:, 0] += one_row_away  # the worst shift
    x = jnp.asarray(x, jnp.float32)
    exact = np.asarray(x, np.float64).reshape(2, 1024, 2, 4).var((1, 3))
    _, variance = jax.jit(partial(groups._moments, groups=2))(x)
    np.testing.assert_allclose(variance[:, 0, ::4], exact, rtol=2e-4)
    channels = x.swapaxes(1, 2)
    _, rstd = jax.jit(partial(rows._moments, eps=0.0))(channels)
    exact = np.asarray(channels, np.float64).var(-1)
    np.testing.assert_allclose(rstd[..., 0], exact**-0.5, rtol=2e-4)


@EVERY_FORM
def test_forms_may_be_mapped_looped_recomputed_and_sharded(plain, own, inputs):
    """Meshes, microbatches and remat do so."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    batches = [jnp.stack([x, x[::-1], 2 * x])[:, None] for x in inputs]
    over_examples = PartitionSpec(None, None, "data")
    sharded = [
        jax.device_put(x, NamedSharding(mesh, over_examples if x.ndim > 3 else PartitionSpec()))
        for x in batches
    ]

    def gradients(form):
        def loss(*batches):
            recomputed = jax.checkpoint(jax.vmap(form))
            return (jax.lax.map(lambda batch: recomputed(*batch), batches) ** 2).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    for one, other in zip(gradients(own)(*sharded), gradients(plain)(*batches), strict=True):
        assert distance(one, other) < 1e-5


def blocks():
    """A residual block and a transformer with MagicVideo's temporal layers, and their inputs."""
    layers = temporal_layers(TemporalConfig(frames=4))
    options = {"groups": 4, "layers": layers}
    residual = partial(ResnetBlock, 8, 16, eps=1e-5, embedding=6, **options)
    transformer = partial(
        SpatialTransformer, 8, heads=2, context=6, linear_projection=False, **options
    )
    return {
        "residual": (residual, (draw(2, 4, 4, 6, 8), draw(2, 1, 6))),
        "transformer": (transformer, (draw(2, 4, 4, 6, 8), draw(2, 7, 6))),
        "convolution": (partial(Conv, 8, 5, stride=2), (draw(2, 4, 4, 6, 8),)),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["residual", "transformer", "convolution"])
def test_blocks_traced_for_a_gpu_compute_the_same(kind, dtype):
    """Every parameter is perturbed, because zeros at initialisation hide paths."""
    build, inputs = blocks()[kind]
    network = bind(lambda keys: build(keys=keys))
    leaves, tree = jax.tree.flatten(network.shapes)
    params = jax.tree.unflatten(
        tree, [0.3 * draw(*x.shape, seed=i) for i, x in enumerate(leaves, 2)]
    )

    def run(dtype):
        cast = [x.astype(dtype) for x in inputs]
        return jax.tree.leaves(outputs_and_gradients(lambda *x: network.apply(*x), (params, *cast)))

    exact, expected = run(jnp.float32), run(dtype)
    with tracing_for_gpu("9.0"):
        seen = run(dtype)
    errors, largest = (
        [distance(one, true) for one, true in zip(some, exact, strict=True)]
        for some in (seen, expected)
    )
    if dtype == jnp.float32:
        assert errors[0] < 1e-6
        assert max(errors) < 1e-5
    else:  # all together: single gradients of few numbers differ by luck
        assert errors[0] < 1.1 * largest[0]
        assert root_mean_square(errors) < 1.1 * root_mean_square(largest)
