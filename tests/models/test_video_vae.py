"""Laws of the VideoVAE: it begins as the image decoder, never looks ahead, and in chunks equals itself whole."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_vae import torch_vae
from tiny import quick, random_params
from torch_weights import copied, from_torch, randomise, relative_error, to_torch

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, merge, split_by_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.taesd import TinyAutoencoder
from magicvideo_jax.models.temporal import PositionEncoding
from magicvideo_jax.models.vae import AutoencoderKL, VAEConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig, sliding_window_mask
from magicvideo_jax.training.optimizer import Freeze, is_trained
from magicvideo_jax.weights.tables.vae_keys import VAE_TABLE

WINDOW = 3
TEMPORAL = TemporalDecoderConfig(window=WINDOW, heads=2)
IMAGE = VAEConfig(widths=(4, 8), blocks=1, groups=2)
TINY = replace(IMAGE, temporal=TEMPORAL)
LEAST = replace(TINY, widths=(4,))
"""A VAE without upsampling, which compiles in half the time."""


def vae(config: VAEConfig = TINY) -> Network:
    return bind(lambda keys: AutoencoderKL(config, keys=keys))


def taesd(temporal: TemporalDecoderConfig | None = TEMPORAL) -> Network:
    return bind(lambda keys: TinyAutoencoder(keys=keys, temporal=temporal))


def latents(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def temporal_part(params: Params) -> Params:
    return split_by_path(params, lambda path: ".temporal." in path)[0]


def changed_frames(decode: Callable[[jax.Array], jax.Array], k: int) -> list[int]:
    """Which of six frames change, at all, when latent frame `k` does."""
    z = latents(1, 6, 2, 3, 4)
    before, after = decode(z), decode(z.at[:, k].set(latents(1, 2, 3, 4, seed=9)))
    return np.flatnonzero((before != after).any(axis=(0, 2, 3, 4))).tolist()


BOTH = pytest.mark.parametrize(
    ("video", "image", "module"),
    [(vae(), vae(IMAGE), AutoencoderKL), (taesd(), taesd(None), TinyAutoencoder)],
    ids=["AutoencoderKL", "TAESD"],
)


@BOTH
def test_a_fresh_one_is_the_image_decoder(video: Network, image: Network, module: type):
    decode = quick(video.method(module.decode))
    weights, z = random_params(image.shapes), latents(1, 6, 2, 3, 4)
    frames = quick(image.method(module.decode))(weights, z)
    fresh = merge(weights, temporal_part(video.init(jax.random.key(0))))
    np.testing.assert_array_equal(decode(fresh, z), frames)

    # With its layers at work it is another network, and still the image decoder when asked for images.
    params = merge(weights, temporal_part(random_params(video.shapes)))
    assert jnp.abs(decode(params, z) - frames).max() > 1e-3
    as_images = quick(partial(video.method(module.decode), as_images=True))
    np.testing.assert_array_equal(as_images(params, z), frames)
    assert changed_frames(partial(decode, params), 1) == [
        1,
        2,
        3,
        4,
        5,
    ]  # two places: W + (W - 1) frames


def test_an_image_passes_the_temporal_layers_by():
    network, z = vae(LEAST), latents(2, 2, 3, 4)
    params = random_params(network.shapes)
    decode = quick(network.method(AutoencoderKL.decode))
    image = vae(replace(LEAST, temporal=None))
    weights = split_by_path(params, lambda path: ".temporal." not in path)[0]
    frames = quick(image.method(AutoencoderKL.decode))(weights, z)
    np.testing.assert_array_equal(decode(params, z), frames)
    assert jnp.abs(decode(params, z[None])[0] - frames).max() > 1e-3


def test_a_frame_sees_those_of_its_window_and_none_later():
    network = vae(replace(LEAST, temporal=replace(TEMPORAL, places=(1,))))
    decode = partial(quick(network.method(AutoencoderKL.decode)), random_params(network.shapes))
    assert changed_frames(decode, 1) == [1, 2, 3]
    near = sliding_window_mask(2, 3, window=3, frames_seen=1)
    assert near.tolist() == [[False, False, True, True, False], [False, False, True, True, True]]


@pytest.mark.parametrize(
    ("network", "module", "at_once"),
    [
        (vae(), AutoencoderKL, 1),
        (vae(), AutoencoderKL, 4),
        (
            vae(
                replace(
                    LEAST,
                    temporal=TemporalDecoderConfig(
                        (0,), 4, heads=1, position=PositionEncoding.NONE
                    ),
                )
            ),
            AutoencoderKL,
            2,
        ),
        (vae(replace(LEAST, temporal=TemporalDecoderConfig((1,), 1, heads=4))), AutoencoderKL, 2),
        (taesd(), TinyAutoencoder, 4),
    ],
    ids=[
        "shorter than the window",
        "longer",
        "one place, no positions",
        "a window of one",
        "TAESD",
    ],
)
def test_chunks_equal_the_whole(network: Network, module: type, at_once: int):
    params, z = random_params(network.shapes), latents(2, 8, 2, 3, 4)
    decode = partial(quick(network.method(module.decode_next)), params)
    whole, cache = decode(z, None)
    chunks, cache = [], jax.tree.map(jnp.zeros_like, cache)
    for first in range(0, 8, at_once):
        x, cache = decode(z[:, first : first + at_once], cache)
        chunks.append(x)
    np.testing.assert_allclose(
        np.concatenate(chunks, axis=1), whole, rtol=0, atol=1e-5 * np.abs(whole).max()
    )
    assert int(cache.frames_seen) == 8


def test_bfloat16_stays_near_float32():
    params, z = random_params(vae(LEAST).shapes), latents(1, 4, 2, 3, 4)
    rounding = bind(lambda keys: AutoencoderKL(LEAST, keys=keys, dtype=jnp.bfloat16))
    exact, rounded = (
        quick(n.method(AutoencoderKL.decode))(params, z) for n in (vae(LEAST), rounding)
    )
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact) < 0.05


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"places": ()}, "places"),
        ({"places": (1, 0)}, "places"),
        ({"places": (0, 3)}, "2 up levels"),
        ({"window": 0}, "window=0"),
        ({"heads": 3}, "divides 8"),
        ({"position": "learned"}, "rope or none"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(fields: dict, said: str):
    plain = to_plain(TINY)
    with pytest.raises(UserError, match=said):
        from_plain(VAEConfig, plain | {"temporal": plain["temporal"] | fields})


def test_configurations_from_before_are_those_of_image_vaes():
    plain = to_plain(IMAGE)
    del plain["temporal"]
    assert from_plain(VAEConfig, plain) == IMAGE
    assert from_plain(VAEConfig, to_plain(TINY)) == TINY


def test_latents_of_another_vae_are_refused():
    with pytest.raises(UserError, match="latents with 8 channels: this VAE needs 4"):
        jax.eval_shape(vae().method(AutoencoderKL.decode), vae().shapes, latents(1, 1, 2, 2, 8))


def test_temporal_layers_can_be_trained_alone():
    paths = [f"vae.{path}" for path in flatten(vae().shapes)]
    trained = {path for path in paths if is_trained(Freeze.TEMPORAL, path)}
    assert trained == {path for path in paths if path.startswith("vae.decoder.temporal.")}
    assert trained


@pytest.mark.slow
def test_a_full_size_one_begins_as_diffusers_decoder():
    config = VAEConfig(temporal=TemporalDecoderConfig())
    theirs, network = randomise(torch_vae(config)), vae(config)
    image = copied(VAE_TABLE, vae(VAEConfig()).shapes, theirs.state_dict())
    params = merge(image, temporal_part(jax.jit(network.init)(jax.random.key(0))))
    z = latents(1, 3, 16, 24, 4)
    decoded, _ = quick(network.method(AutoencoderKL.decode_next))(params, z, None)
    error = relative_error(decoded, from_torch(theirs.decode(to_torch(z)).sample, (1, 3)))
    print(error)
    assert error < 1e-4
