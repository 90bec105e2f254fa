"""Attention: every form equals the formula in float64, and each other, forward and backward."""

import logging

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from magicvideo_jax.models import attention as forms
from magicvideo_jax.models.attention import attend
from magicvideo_jax.runtime.traced_gpu import tracing_for_gpu

LENGTHS = [
    (16, 16),
    (1, 1),
    (7, 33),
    (64, 77),
    (33, 129),
    (130, 257),
]  # (queries, keys): plain up to 128 keys


def draw(queries: int, keys: int, *, batch: tuple[int, ...] = (2,), dtype=jnp.float32):
    """q, k, v with 3 heads of 5."""
    rng = np.random.default_rng(queries * 1000 + keys)
    return [
        jnp.asarray(rng.standard_normal((*batch, x, 3, 5)), dtype) for x in (queries, keys, keys)
    ]


def some_mask(queries: int, keys: int):
    """Random, with a first key that everybody sees."""
    return (
        jnp.asarray(np.random.default_rng(queries + keys).random((queries, keys)) < 0.3)
        .at[:, 0]
        .set(True)
    )


def formula(q, k, v, mask=None):
    """Attention in float64 by NumPy."""
    q, k, v = (np.asarray(x.astype(jnp.float32), np.float64) for x in (q, k, v))
    scores = np.einsum("...lnd,...mnd->...nlm", q, k) / np.sqrt(q.shape[-1])
    scores = scores if mask is None else np.where(np.asarray(mask), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("...nlm,...mnd->...lnd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_equals_the_formula(queries, keys, masked):
    q, k, v = draw(queries, keys)
    mask = some_mask(queries, keys) if masked else None
    np.testing.assert_allclose(jax.jit(attend)(q, k, v, mask), formula(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("keys", [4, 130])
def test_takes_any_leading_axes(batch, keys):
    q, k, v = draw(3, keys, batch=batch)
    np.testing.assert_allclose(attend(q, k, v), formula(q, k, v), atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 130), (3, 1), (1, 1)])
def test_a_mask_may_broadcast(shape):
    q, k, v = draw(3, 130)
    mask = some_mask(*shape)
    full = np.broadcast_to(mask, (3, 130))
    np.testing.assert_allclose(attend(q, k, v, mask), formula(q, k, v, full), atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scores_at_once", [1000, 40_000])
def test_forms_and_their_gradients_agree(monkeypatch, scores_at_once, masked):
    """Pieces of queries that do not divide them (33 pieces of 4 for 130 queries; or whole) equal the plain form."""
    monkeypatch.setattr(forms, "MAX_SCORES", scores_at_once)
    q, k, v = draw(130, 257)
    mask = some_mask(130, 257) if masked else None

    def objective(form):
        return jax.jit(
            jax.value_and_grad(lambda q, k, v: (form(q, k, v, mask) ** 2).sum(), argnums=(0, 1, 2))
        )

    value, grads = objective(forms._head_by_head)(q, k, v)
    expected, expected_grads = objective(forms._plain)(q, k, v)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected_grad, atol=1e-5)


@pytest.mark.parametrize(("keys", "modes"), [(8, ("fwd", "rev")), (130, ("rev",))])
def test_gradients_equal_differences(keys, modes):
    q, k, v = draw(3, keys, batch=())
    mask = some_mask(3, keys)
    jax.test_util.check_grads(
        lambda *x: attend(*map(jnp.asarray, x), mask),
        (q, k, v),
        order=1,
        modes=modes,
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize("keys", [16, 130])
def test_bfloat16_comes_back_as_bfloat16_and_sums_in_float32(keys):
    q, k, v = draw(16, keys, dtype=jnp.bfloat16)
    seen = attend(q, k, v)
    assert seen.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(seen, np.float32), formula(q, k, v), atol=2e-2)


def test_large_scores_do_not_overflow():
    q, k, v = draw(4, 130)
    np.testing.assert_allclose(attend(100 * q, 100 * k, v), formula(100 * q, 100 * k, v), atol=1e-4)


@pytest.mark.parametrize("queries", [16, 144])
def test_a_later_frame_never_changes_an_earlier_one(queries):
    q, k, v = draw(queries, queries)
    causal = jnp.tril(jnp.ones((queries, queries), bool))
    before = attend(q, k, v, causal)
    after = attend(q, k.at[:, -1].add(7.0), v.at[:, -1].add(7.0), causal)
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])


@pytest.mark.parametrize("keys", [16, 144])
def test_gradients_under_remat_and_eight_devices_equal_one(keys):
    q, k, v = draw(keys, keys, batch=(8,))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in (q, k, v)]
    grad = jax.jit(
        jax.grad(jax.checkpoint(lambda q, k, v: (attend(q, k, v) ** 2).sum()), argnums=(0, 1, 2))
    )
    for one, eight in zip(grad(q, k, v), grad(*spread), strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-5)


def test_the_loop_is_lowered_for_the_cpu_alone():
    """A CPU host that compiles ahead of time for a TPU must not give it the CPU's loop, forward or backward."""
    q, k, v = draw(144, 144)
    traced = jax.jit(jax.grad(jax.checkpoint(lambda q: attend(q, k, v).sum()))).trace(q)
    loops = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert "stablehlo.while" in loops["cpu"]
    assert "stablehlo.while" not in loops["tpu"]
    assert "stablehlo.while" not in loops["cuda"]


def test_maps_over_a_batch_axis():
    q, k, v = draw(3, 130, batch=(2, 2))
    np.testing.assert_allclose(jax.vmap(attend)(q, k, v), attend(q, k, v), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "d", "queries", "why"),
    [
        (jnp.float32, 64, 256, "float32"),
        (jnp.bfloat16, 60, 256, "head dimension is 60"),
        (jnp.bfloat16, 160, 256, "head dimension is 160"),
        (jnp.bfloat16, 64, 255, "255 queries"),
        (jnp.bfloat16, 64, 256, None),
    ],
)
def test_without_cudnn_the_reason_is_logged_once(monkeypatch, caplog, dtype, d, queries, why):
    """A machine that reports an Ampere GPU."""
    gpu = type("Gpu", (), {"compute_capability": "8.0"})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    forms._log_fallback.cache_clear()
    q = jnp.zeros((1, queries, 2, d), dtype)
    with caplog.at_level(logging.WARNING):
        chosen = [forms._choose_on_cuda(q, q, masked=True) for _ in range(2)]
    if why is None:
        assert chosen == [forms._cudnn] * 2
        assert not caplog.records
    else:
        assert chosen == [forms._plain_narrow] * 2
        assert [why in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("capability", "d", "form"),
    [("8.0", 128, "_cudnn"), ("9.0", 160, "_cudnn"), ("9.0", 264, "_plain_narrow")],
)
def test_cudnn_takes_larger_heads_on_hopper(capability, d, form):
    q = jnp.zeros((1, 64, 2, d), jnp.bfloat16)
    with tracing_for_gpu(capability):
        assert forms._choose_on_cuda(q, q, masked=False) is getattr(forms, form)


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_few_frames_have_their_narrow_gradient_on_cuda_alone(has_bias):
    q, k, v = draw(16, 16, dtype=jnp.bfloat16)
    bias = jnp.zeros((3, 16, 16)) if has_bias else None

    def narrow_products(platform):
        """Products of the gradient from bfloat16 alone, by the text of the program."""
        with tracing_for_gpu("9.0"):
            traced = jax.jit(jax.grad(lambda q: attend(q, k, v, None, bias).sum())).trace(q)
        lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        products = [line for line in lines if "dot_general" in line]
        assert products
        return all("xf32>, tensor" not in line and "xf32>) ->" not in line for line in products)

    assert narrow_products("cuda")
    assert not narrow_products("tpu")


@pytest.mark.parametrize(("queries", "keys"), [(64, 77), (33, 76), (34, 64)])
def test_cudnn_is_given_even_lengths(monkeypatch, queries, keys):
    """cuDNN refuses odd lengths in training. XLA's form of the same function replaces it."""
    q, k, v = draw(queries, keys, batch=(2, 2))
    lengths, run = [], jax.nn.dot_product_attention

    def of_xla(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        lengths.extend((q.shape[1], k.shape[1], v.shape[1]))
        return run(q, k, v, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", of_xla)
    seen = forms._cudnn(q, k, v, None)
    assert not any(length % 2 for length in lengths)
    np.testing.assert_allclose(seen, forms._plain(q, k, v, None), atol=1e-5)
