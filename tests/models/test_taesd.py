"""TAESD against diffusers' AutoencoderTiny: random weights, and the real ones on frames of a real clip."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from tiny import quick
from torch_weights import copied, from_torch, randomise, relative_error, to_torch

from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.taesd import TinyAutoencoder
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.tables.taesd_keys import TAESD_TABLE


def real_frames(clip: Path, *, height: int, width: int, count: int) -> np.ndarray:
    """Frames spread over a clip, resized, in [0, 1]: (t, h, w, 3)."""
    with av.open(clip) as container:
        frames = [
            f.to_ndarray(width=width, height=height, format="rgb24")
            for f in container.decode(video=0)
        ]
    return np.stack(frames[:: len(frames) // count][:count]).astype(np.float32) / 255


def published_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published decoder numbers its clamp as layer 0; diffusers counts from the layer behind it."""
    names = {}
    for key in state:
        half, _, place, rest = key.split(".", 3)
        names[key] = f"{half}.{int(place) + (half == 'decoder')}.{rest}"
    return {names[key]: value for key, value in state.items()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibel, for pixels in [0, 1]."""
    return float(-10 * np.log10(np.mean(np.square(a - b, dtype=np.float64))))


NETWORK = bind(lambda keys: TinyAutoencoder(keys=keys))


def compare(
    theirs: AutoencoderTiny, params: Params, x: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Our reconstruction of `x`, and the distance from diffusers', which speaks of pixels in [-1, 1]."""
    latents = theirs.encode(to_torch(2 * x - 1)).latents
    z = quick(NETWORK.method(TinyAutoencoder.encode))(params, x)
    decoded = quick(NETWORK.method(TinyAutoencoder.decode))(params, z)
    expected = from_torch(theirs.decode(to_torch(z)).sample, x.shape[:-3]) / 2 + 0.5
    return np.asarray(decoded), {
        "latents": relative_error(z, from_torch(latents, x.shape[:-3])),
        "pixels": relative_error(decoded, expected),
        "pixels, absolute": float(np.abs(decoded - expected).max()),
    }


@pytest.mark.parametrize("shape", [(2, 2, 16, 24), (24, 40)], ids=str)
def test_it_equals_diffusers(shape: tuple[int, ...]):
    x = np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)
    x = x if len(shape) > 2 else x[None]
    theirs = randomise(AutoencoderTiny())
    params = copied(TAESD_TABLE, NETWORK.shapes, published_names(theirs.state_dict()))
    _, errors = compare(theirs, params, x)
    print(errors)
    assert max(errors.values()) < 1e-4


@pytest.fixture(scope="module")
def trained(shared_assets: Path) -> AutoencoderTiny:
    """diffusers' model with the published weights."""
    published = {
        f"{half}.{key}": value.float()
        for half in ("encoder", "decoder")
        for key, value in load_file(shared_assets / "taesd" / f"taesd_{half}.safetensors").items()
    }
    model = AutoencoderTiny()
    today = {
        name: key
        for key, name in zip(model.state_dict(), published_names(model.state_dict()), strict=True)
    }
    model.load_state_dict({today[name]: value for name, value in published.items()})
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "size", [(256, 256), (240, 320), pytest.param((480, 640), marks=pytest.mark.slow)], ids=str
)
def test_real_frames_survive(trained: AutoencoderTiny, shared_assets: Path, size: tuple[int, int]):
    height, width = size
    x = real_frames(
        shared_assets / "real_clips" / "asl_gestures_book.mkv", height=height, width=width, count=2
    )
    params = open_weights(shared_assets / "taesd").parts["vae"].load(NETWORK.shapes)
    decoded, errors = compare(trained, params, x)
    print(
        f"{height} x {width}: {psnr(decoded, x):.2f} dB (clipped to [0, 1]: {psnr(decoded.clip(0, 1), x):.2f}) {errors}"
    )
    assert errors["latents"] < 1e-3
    assert errors["pixels, absolute"] < 1e-3
    assert psnr(decoded.clip(0, 1), x) > 30
