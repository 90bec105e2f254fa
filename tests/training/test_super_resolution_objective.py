"""The super-resolution objective against NumPy and Pillow: what the network is given, and its loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from PIL import Image

from magicvideo_jax.core.bicubic import enlarge, shrink
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.core.pixels import to_uint8
from magicvideo_jax.diffusion.known_schedules import LOW_RESOLUTION_NOISE
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.pixel_autoencoder import enlarged_latents
from magicvideo_jax.training.objectives import DenoisingConfig, DenoisingNetworks
from magicvideo_jax.training.super_resolution_objective import (
    SuperResolutionConfig,
    super_resolution_objective,
)

KEY = key_for(3, 7, "a test")
NULL, IDS = np.zeros(4, np.int32), np.arange(1, 5)[None].repeat(6, 0)
NOISE = NoiseScheduleConfig(prediction_type=Prediction.V)


def pictures(b: int = 6, side: int = 24) -> np.ndarray:
    """Red is the row, green the column, blue noise."""
    rows, columns = np.indices((side, side)) * 8
    blue = np.random.default_rng(0).integers(0, 256, (b, 1, side, side))
    same = [np.broadcast_to(one, blue.shape) for one in (rows, columns)]
    return np.stack([*same, blue], axis=-1).astype(np.uint8)


def bicubic(frame: np.ndarray, factor: float) -> np.ndarray:
    size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def seen_by_the_network(
    config: SuperResolutionConfig, denoising=None, enlarged=lambda small: None, **batch
):
    """The arguments of the network at one call of the objective, its output, and the loss."""
    seen = []

    def denoise(params, z, time, condition, *, as_images):
        seen.append((np.asarray(z), np.asarray(time), condition))
        return 0.3 * z

    networks = DenoisingNetworks(
        encode=lambda params, x, key: rearrange(
            x, "b t (h m) (w n) c -> b t h w (m n c)", m=4, n=4
        ),
        encode_text=lambda params, ids: jnp.asarray(ids)[..., None].astype(jnp.float32),
        denoise=denoise,
    )
    objective = super_resolution_objective(
        networks,
        NOISE,
        LOW_RESOLUTION_NOISE,
        config,
        denoising or DenoisingConfig(),
        factor=4,
        enlarged=enlarged,
        null_ids=NULL,
    )
    batch = {"pixels": jnp.asarray(pictures()), "ids": jnp.asarray(IDS)} | batch
    batch = {name: array for name, array in batch.items() if array is not None}
    loss, _ = objective({}, batch, KEY, 0)
    return *seen[0], float(loss)


def alphas(beta_start: float, beta_end: float) -> np.ndarray:
    betas = np.linspace(beta_start**0.5, beta_end**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def by_example(values: np.ndarray) -> np.ndarray:
    return values[:, None, None, None, None]


@pytest.mark.parametrize("crop", [0, 16])
def test_the_network_is_given_noisy_small_pictures_of_what_it_denoises(crop: int):
    z, time, condition, loss = seen_by_the_network(SuperResolutionConfig(crop=crop, most_noise=90))
    level = np.asarray(condition.noise_level)
    assert 0 <= level.min() <= level.max() <= 90
    # The crop: red and green of the given picture tell where it is from.
    side = crop or 24
    eps = np.asarray(jax.random.normal(subkey(KEY, "noise"), z.shape))
    abar = alphas(0.00085, 0.012)[time.astype(int)]
    alpha, sigma = (by_example(np.sqrt(one)) for one in (abar, 1 - abar))
    z0 = (z - sigma * eps) / alpha
    x = rearrange(z0, "b t h w (m n c) -> b t (h m) (w n) c", m=4, n=4) * 127.5 + 127.5
    large = np.round(x).astype(int)
    tops, lefts = large[:, 0, 0, 0, 0] // 8, large[:, 0, 0, 0, 1] // 8
    for picture, top, left, found in zip(pictures(), tops, lefts, large, strict=True):
        expected = picture[:, top : top + side, left : left + side]
        np.testing.assert_allclose(found, expected, atol=1 + 255 * (1 - abar.min()))
    assert len({*zip(tops.tolist(), lefts.tolist(), strict=True)}) == (1 if not crop else 6)
    # Eq. 2, with Pillow's bicubic.
    small = np.stack([bicubic(one[0].clip(0, 255).astype(np.uint8), 0.25) for one in large])
    noise = np.asarray(jax.random.normal(subkey(KEY, "picture noise"), condition.given.shape))
    abar_l = alphas(0.0001, 0.02)[level]
    expected = by_example(np.sqrt(abar_l)) * (small[:, None] / 127.5 - 1)
    expected = expected + by_example(np.sqrt(1 - abar_l)) * noise
    np.testing.assert_allclose(condition.given, expected, atol=2.1 / 127.5)
    # Eq. 1.
    v = alpha * eps - sigma * z0
    assert loss == pytest.approx(np.mean((0.3 * z - v) ** 2), rel=1e-4)


def test_what_is_learned_may_be_the_difference_from_the_small_picture_enlarged():
    config, enlarged = SuperResolutionConfig(crop=16), partial(enlarged_latents, factor=4)
    whole, time, condition, _ = seen_by_the_network(config)
    lacking, _, same, loss = seen_by_the_network(config, enlarged=enlarged)
    np.testing.assert_array_equal(same.given, condition.given)
    abar = alphas(0.00085, 0.012)[time.astype(int)]
    alpha, sigma = (by_example(np.sqrt(one)) for one in (abar, 1 - abar))
    base = (whole - lacking) / alpha
    small = np.asarray(shrink(as_pixels(base), 4))
    level = np.asarray(condition.noise_level)
    noise = np.asarray(jax.random.normal(subkey(KEY, "picture noise"), condition.given.shape))
    abar_l = by_example(alphas(0.0001, 0.02)[level])
    clean = (np.asarray(condition.given) - np.sqrt(1 - abar_l) * noise) / np.sqrt(abar_l)
    np.testing.assert_allclose(base, enlarged(jnp.asarray(clean)), atol=0.02)
    assert np.abs(small / 127.5 - 1 - clean).mean() < 0.1  # an enlarged picture is the small one
    eps = np.asarray(jax.random.normal(subkey(KEY, "noise"), lacking.shape))
    v = alpha * eps - sigma * (lacking - sigma * eps) / alpha
    assert loss == pytest.approx(np.mean((0.3 * lacking - v) ** 2), rel=1e-4)


def as_pixels(z: np.ndarray) -> jax.Array:
    x = rearrange(z, "b t h w (m n c) -> b t (h m) (w n) c", m=4, n=4)
    return to_uint8(jnp.asarray(x))


def test_levels_are_uniform_and_captions_are_dropped():
    config = SuperResolutionConfig(crop=8, most_noise=9)
    pixels = jnp.asarray(pictures(256, side=8))
    ids = jnp.asarray(np.arange(1, 5)[None].repeat(256, 0))
    _, _, condition, _ = seen_by_the_network(
        config, DenoisingConfig(caption_dropout=0.5), pixels=pixels, ids=ids
    )
    levels, kept = np.asarray(condition.noise_level), np.asarray(condition.text).any((1, 2))
    assert set(levels.tolist()) == {*range(10)}
    assert levels.mean() == pytest.approx(4.5, abs=0.6)
    assert kept.mean() == pytest.approx(0.5, abs=0.1)


def test_resizing_is_pillows_bicubic():
    # Where neither overshoots: Pillow rounds and clips between rows and columns.
    frames = np.random.default_rng(1).integers(90, 160, (2, 24, 16, 3), np.uint8)
    for ours, factor in ((partial(shrink, factor=4), 0.25), (partial(enlarge, factor=4), 4)):
        theirs = np.stack([bicubic(one, factor) for one in frames])
        got = np.asarray(ours(jnp.asarray(frames)))
        assert got.shape == theirs.shape
        assert np.abs(got.astype(int) - theirs).max() <= 1


def test_crops_larger_than_the_pictures_are_refused():
    words = "config.super_resolution.crop=28: pictures have 24 x 24 pixels: give at most 24"
    with pytest.raises(UserError, match=words):
        seen_by_the_network(SuperResolutionConfig(crop=28))


def test_latents_are_refused():
    with pytest.raises(
        UserError, match=r"config\.data\.sources: a set of latents: .* with --pixels"
    ):
        seen_by_the_network(SuperResolutionConfig(), pixels=None)
