"""Pixels as latents: nothing is lost either way, and nothing is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float, to_uint8
from magicvideo_jax.models.autoencoder import autoencoder
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.weights.config_json import unet_config, unet_json, vae_config, vae_json

PIXELS = VAEConfig(kind=VAEKind.PIXELS, latent_channels=48, scaling=1.0)
NETWORK = bind(lambda keys: autoencoder(PIXELS, keys=keys, dtype=jnp.bfloat16))
ENCODE, DECODE = (
    NETWORK.method(lambda vae, x, how=name: getattr(vae, how)(x)) for name in ("encode", "decode")
)
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12, 3), np.uint8)


def test_it_is_exact_both_ways_and_has_no_parameters():
    assert not NETWORK.shapes
    x = to_float(jnp.asarray(PICTURES))
    z, log_variance = ENCODE({}, x)
    assert z.shape == (2, 3, 2, 3, 48)
    assert not np.exp(log_variance).any()
    np.testing.assert_array_equal(DECODE({}, z), x)
    np.testing.assert_array_equal(to_uint8(DECODE({}, z)), PICTURES)
    noise = jax.random.normal(jax.random.key(0), z.shape)
    np.testing.assert_array_equal(ENCODE({}, DECODE({}, noise))[0], noise)


def test_a_latent_is_a_square_of_four_by_four_pixels():
    z, _ = ENCODE({}, to_float(jnp.asarray(PICTURES)))
    square = to_float(jnp.asarray(PICTURES[1, 2, 4:8, 8:12]))
    np.testing.assert_array_equal(z[1, 2, 1, 2], square.ravel())


def test_latents_of_another_model_are_refused():
    with pytest.raises(UserError, match="latents with 4 channels: pixels in squares of 4 need 48"):
        DECODE({}, jnp.zeros((1, 1, 2, 2, 4)))


@pytest.mark.parametrize("channels", [3, 12, 48, 192])
def test_the_factor_is_that_of_the_channels(channels: int):
    assert 3 * VAEConfig(kind=VAEKind.PIXELS, latent_channels=channels).factor ** 2 == channels


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"latent_channels": 47}, "latent_channels=47: give 3 times a square, as 48"),
        ({"latent_channels": 4}, "latent_channels=4: give 3 times a square"),
        ({"latent_channels": 48, "temporal": TemporalDecoderConfig((0,))}, "temporal: pixels need"),
    ],
)
def test_what_are_no_pixels_is_refused(fields: dict, words: str):
    with pytest.raises(UserError, match=words):
        VAEConfig(kind=VAEKind.PIXELS, **fields)


def test_it_is_written_and_read_as_a_configuration_that_diffusers_refuses():
    written = vae_json(PIXELS, sample_size=256)
    assert written["_class_name"] == "PixelAutoencoder"
    assert vae_config(written, where="config.json") == PIXELS
    with pytest.raises(UserError, match=r"^config.json: latent_channels=47"):
        vae_config({**written, "latent_channels": 47}, where="config.json")


def test_a_network_without_attention_is_written_and_read():
    plain = UNetConfig(
        levels=(UNetLevelConfig(8, 0), UNetLevelConfig(16, 0)), middle_heads=0, groups=4
    )
    written = unet_json(plain)
    assert written["mid_block_type"] == "UNetMidBlock2DOfResnets"
    assert unet_config(written, where="config.json") == plain
    with pytest.raises(UserError, match="'mid_block_type' is 'UNetMidBlock2D'; supported: 'UNetM"):
        unet_config({**written, "mid_block_type": "UNetMidBlock2D"}, where="config.json")
