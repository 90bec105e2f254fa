"""Attention over frames as one kernel, in Pallas' interpreter: whatever the sizes, it equals the plain form and its
gradients, and it is chosen where it can run.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.models.attend_heads import attend_heads
from magicvideo_jax.models.attention import attend_frames
from magicvideo_jax.models.frame_kernel import attend_frames_in_kernel
from magicvideo_jax.parallel.device_shards import has_own_shards, on_own_shards
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.runtime.traced_gpu import tracing_for_gpu


def in_interpreter(q, k, v, mask, bias):
    return attend_frames_in_kernel(jnp.stack([q, k, v], 3), mask, bias, interpret=True)


# clips, frames, pixels, heads, channels, directed, biased. Neither pixels nor channels fill a program's rows.
CASES = {
    "MagicVideo": (2, 16, 5, 2, 40, True, False),
    "wide heads": (1, 16, 3, 1, 80, True, False),
    "widest heads": (1, 2, 3, 1, 160, False, False),
    "LaVie": (1, 16, 6, 2, 8, False, True),
    "few frames": (1, 3, 23, 1, 16, True, True),
    "many frames": (1, 27, 3, 2, 12, True, False),
    "one frame": (1, 1, 65, 1, 4, False, False),
}


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def inputs_of(case):
    b, t, p, n, d, directed, biased = CASES[case]
    q, k, v = (draw(b, t, p, n, d, seed=i) for i in range(3))
    mask = jnp.tril(jnp.ones((t, t), bool)) if directed else None
    return (q, k, v, draw(n, t, t) if biased else None), mask


def plain(q, k, v, mask, bias):
    heads = (jnp.einsum("btpnd->bpntd", x) for x in (q, k, v))
    return jnp.einsum("bpntd->btpnd", attend_heads(*heads, mask, bias))


def outputs_and_gradients(form, inputs, mask):
    def both(q, k, v, bias):
        y, pull = jax.vjp(lambda q, k, v, bias: form(q, k, v, mask, bias), q, k, v, bias)
        return [y, *jax.tree.leaves(pull(draw(*y.shape, seed=9).astype(y.dtype)))]

    return jax.jit(both)(*inputs)


def distance(seen, expected):
    """Relative to the whole, or to one where all is zero (gradients of scores of a single key)."""
    seen, expected = (np.asarray(x, np.float64) for x in (seen, expected))
    return np.linalg.norm(seen - expected) / max(np.linalg.norm(expected), 1)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form_and_its_gradients(case):
    inputs, mask = inputs_of(case)
    expected = outputs_and_gradients(plain, inputs, mask)
    seen = outputs_and_gradients(in_interpreter, inputs, mask)
    assert distance(seen[0], expected[0]) < 1e-6
    for one, other in zip(seen[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.parametrize("case", ["MagicVideo", "LaVie"])
def test_bfloat16_is_no_further_from_float32_than_in_the_plain_form(case):
    inputs, mask = inputs_of(case)
    inputs = [x.astype(jnp.bfloat16) for x in inputs[:3]] + [*inputs[3:]]
    wide = [None if x is None else x.astype(jnp.float32) for x in inputs]
    exact = outputs_and_gradients(plain, wide, mask)
    own, of_plain = (outputs_and_gradients(form, inputs, mask) for form in (in_interpreter, plain))
    for seen, other, true in zip(own, of_plain, exact, strict=True):
        assert seen.dtype == other.dtype
        assert distance(seen, true) < 1.02 * distance(other, true)


@pytest.mark.parametrize(("pixels", "biased"), [(4, True), (4, False), (5, True)])
def test_devices_compute_their_own_pixels(pixels, biased):
    """Clips and pixels lie over devices; what all of them share has its whole gradient, too."""
    q, k, v = (draw(4, 3, pixels, 2, 8, seed=i) for i in range(3))
    mask, bias = jnp.tril(jnp.ones((3, 3), bool)), draw(2, 3, 3) if biased else None
    expected = outputs_and_gradients(plain, (q, k, v, bias), mask)

    def form(q, k, v, mask, bias):
        return on_own_shards(in_interpreter, q, k, v, shared_axis=2, replicated=(mask, bias))

    with jax.set_mesh(make_mesh(MeshConfig(data=2, frames=4))):
        assert has_own_shards(q.shape[:3], shared_axis=2) == (pixels == 4)
        if pixels != 4:
            return
        seen = outputs_and_gradients(form, (q, k, v, bias), mask)
    assert distance(seen[0], expected[0]) < 1e-6
    for one, other in zip(seen[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.parametrize(
    ("capability", "dtype", "frames", "is_chosen"),
    [
        ("9.0", jnp.bfloat16, 16, True),
        ("8.0", jnp.float16, 32, True),
        ("7.5", jnp.bfloat16, 16, False),
        ("9.0", jnp.float32, 16, False),
        ("9.0", jnp.float16, 33, False),
    ],
)
def test_is_chosen_where_it_can_run(capability, dtype, frames, is_chosen):
    """Elsewhere, and in programs for other platforms, attention over frames is what it was."""
    q, k, v = (draw(1, frames, 4, 2, 4, seed=i, dtype=dtype) for i in range(3))
    with tracing_for_gpu(capability), jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        traced = jax.jit(lambda q, k, v: attend_frames(q, k, v)).trace(q, k, v)
        assert ("pallas_call" in str(traced.jaxpr)) == is_chosen
        values = traced.lower().compile()(q, k, v)
    np.testing.assert_allclose(
        values.astype(jnp.float32),
        plain(*(x.astype(jnp.float32) for x in (q, k, v)), None, None),
        atol=0.02,
    )
