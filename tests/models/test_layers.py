"""Layers whose form depends on where they run."""

import jax
import numpy as np
import pytest

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_a_convolution_in_cudnns_order_is_the_same(monkeypatch, size, stride):
    conv = Conv(3, 5, size=size, stride=stride, keys=Keys(jax.random.key(0)))
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 3)).astype(np.float32)
    plain, plain_gradient = jax.value_and_grad(lambda x: (conv(x) ** 2).sum())(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    turned, turned_gradient = jax.value_and_grad(lambda x: (conv(x) ** 2).sum())(x)
    np.testing.assert_allclose(turned, plain, rtol=1e-5)
    np.testing.assert_allclose(turned_gradient, plain_gradient, rtol=1e-4, atol=1e-5)
