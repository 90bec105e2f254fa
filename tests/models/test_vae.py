"""AutoencoderKL is Stable Diffusion's VAE: parity with diffusers on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from tiny import quick
from torch_weights import copied, from_torch, randomise, relative_error, to_torch

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.vae import AutoencoderKL, VAEConfig
from magicvideo_jax.weights.tables.vae_keys import VAE_TABLE

TINY = VAEConfig(widths=(16, 32, 32), blocks=1, groups=8)


def torch_vae(config: VAEConfig) -> TorchVAE:
    levels = len(config.widths)
    return TorchVAE(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
    )


def our_vae(config: VAEConfig, dtype=jnp.float32) -> Network:
    return bind(lambda keys: AutoencoderKL(config, keys=keys, dtype=dtype))


def compare(
    theirs: TorchVAE, network: Network, params, *, shape: tuple[int, ...]
) -> dict[str, float]:
    """Relative errors of mean, log-variance and pixels for images of `shape` (.., h, w)."""
    draw = np.random.default_rng(sum(shape))
    x = draw.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    seen = theirs.encode(to_torch(x)).latent_dist
    mean, log_variance = quick(network.method(AutoencoderKL.encode))(params, x)
    decoded = quick(network.method(AutoencoderKL.decode))(params, mean)
    expected = theirs.decode(to_torch(mean)).sample
    frames = shape[:-2]
    return {
        "mean": relative_error(mean, from_torch(seen.mean, frames)),
        "log_variance": relative_error(log_variance, from_torch(seen.logvar, frames)),
        "pixels": relative_error(decoded, from_torch(expected, frames)),
    }


@pytest.mark.parametrize("shape", [(2, 2, 16, 24), (1, 18, 29)], ids=str)
def test_it_equals_diffusers(shape: tuple[int, ...]):
    """16 x 24 halves evenly; 18 x 29 ends on a row that the padding at the end decides."""
    theirs, network = randomise(torch_vae(TINY)), our_vae(TINY)
    errors = compare(
        theirs, network, copied(VAE_TABLE, network.shapes, theirs.state_dict()), shape=shape
    )
    print(errors)
    assert max(errors.values()) < 1e-4


def test_bfloat16_stays_near_float32():
    params = copied(VAE_TABLE, our_vae(TINY).shapes, randomise(torch_vae(TINY)).state_dict())
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    exact, rounded = (
        quick(our_vae(TINY, dtype).apply)(params, x) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact) < 0.05


def test_full_size_count():
    assert count_parameters(our_vae(VAEConfig()).shapes) == 83_653_863
    assert VAEConfig().factor == 8


@pytest.mark.slow
def test_full_size_equals_diffusers():
    theirs, network = randomise(torch_vae(VAEConfig())), our_vae(VAEConfig())
    params = copied(VAE_TABLE, network.shapes, theirs.state_dict())
    with torch.no_grad():
        for shape in ((2, 64, 64), (1, 128, 80), (1, 72, 104)):
            errors = compare(theirs, network, params, shape=shape)
            print(shape, errors)
            assert max(errors.values()) < 1e-4
