"""20 guided steps of LaVie's three networks end where loops over their twins in PyTorch end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from lavie_twin import call, tiny_twin, weights_of
from tiny import quick
from torch_weights import copied, relative_error

from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.known_schedules import LOW_RESOLUTION_NOISE
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.unet import VideoUNet
from magicvideo_jax.sampling.interpolation import copied_keyframes, interpolated_frames
from magicvideo_jax.sampling.keyframes import (
    SampleConfig,
    Sampler,
    make_sampler_inputs,
    sample_keyframes,
)
from magicvideo_jax.sampling.published import (
    INTERPOLATION_SAMPLE,
    LAVIE_SAMPLE,
    SUPER_RESOLUTION_SAMPLE,
)
from magicvideo_jax.sampling.super_resolution import NOISE_LEVEL, noisy_pictures, parts_of
from magicvideo_jax.weights.formats.lavie_file import lavie_kind

STEPS, SIDE = 20, 4
KEY = key_for(3, 0, "clip")
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETAS, 0)


def noise(frames: int, *, step: int | None = None) -> torch.Tensor:
    """Noise of the start or of a step, as our sampler draws it, b c f h w."""
    key = subkey(KEY, "noise")
    if step is not None:
        key = jax.random.fold_in(subkey(KEY, "sampler noise"), step)
    drawn = jax.random.normal(key, (frames, SIDE, SIDE, 4))
    return torch.from_numpy(np.array(jnp.moveaxis(drawn, -1, 0)))[None]


def texts(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of a null text and of a prompt."""
    draw = torch.Generator().manual_seed(2)
    width = tiny_twin(kind).config.context
    null, text = torch.randn(2, 1, 5, width, generator=draw)
    return null, text


def sampled(kind: str, config: SampleConfig, frames: int, **given: jax.Array) -> np.ndarray:
    """What our sampler makes with the weights of the twin, as b c f h w."""
    twin, unet, *_ = tiny_twin(kind)
    known = lavie_kind(unet.temporal)
    assert known is not None
    network = bind(lambda keys: VideoUNet(unet, keys=keys))
    params = copied(known.table, network.shapes, weights_of(twin))
    shape = (frames, SIDE, SIDE, 4)

    def denoise(params, z, time, condition: Condition, *, attention_window=None):
        del attention_window
        if condition.given is not None:
            z = jnp.concatenate([z, condition.given], -1)
        return network.apply(params, z, time, condition.text, None, condition.noise_level)

    null, text = (jnp.asarray(x.numpy()) for x in texts(kind))
    sampler = make_sampler_inputs(config, known.noise, shape=shape)
    run = quick(partial(sample_keyframes, denoise=denoise, shape=shape))
    z = run(params, Condition(text, None, **given), null, KEY[None], sampler=sampler)
    return np.moveaxis(np.asarray(z), -1, 1)


def guided(
    kind: str, z: torch.Tensor, time: int, scale: float, *more: torch.Tensor
) -> torch.Tensor:
    """Both predictions in one batch; `more` is the same for both."""
    twin = tiny_twin(kind).twin
    both = torch.cat([z, z])
    if more:
        both = torch.cat([both, torch.cat([more[0]] * 2)], 1)
    times, text = torch.tensor([float(time)] * 2), torch.cat(texts(kind))
    levels = (torch.tensor([NOISE_LEVEL] * 2),) if kind == "vsr" else ()
    plain, told = call(twin, both, times, text, *levels).double().chunk(2)
    return plain + scale * (told - plain)


def steps_of(config: SampleConfig) -> SampleConfig:
    return SampleConfig(config.sampler, STEPS, config.guidance)


def test_base_ends_where_ancestral_sampling_of_its_twin_ends():
    frames, config = 4, LAVIE_SAMPLE
    assert config.sampler is Sampler.DDPM
    z = noise(frames).double()
    times = list(range(950, -1, -50))
    for i, time in enumerate(times):
        eps = guided("base", z.float(), time, config.guidance)
        now, after = ABAR[time], ABAR[times[i + 1]] if i + 1 < STEPS else torch.tensor(1.0).double()
        x0 = (z - (1 - now).sqrt() * eps) / now.sqrt()
        alpha = now / after
        z = after.sqrt() * (1 - alpha) / (1 - now) * x0 + alpha.sqrt() * (1 - after) / (1 - now) * z
        z = z + ((1 - after) / (1 - now) * (1 - alpha)).sqrt() * noise(frames, step=i)
    assert relative_error(sampled("base", steps_of(config), frames), z) < 1e-3


def test_interpolation_ends_where_respaced_ddim_of_its_twin_ends():
    keyframes = torch.randn(1, 4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    frames = interpolated_frames(3)
    copies = keyframes.repeat_interleave(4, 2)[:, :, 1:-2]
    assert copies.shape[2] == frames
    z = noise(frames).double()
    times = [round(i * 999 / (STEPS - 1)) for i in range(STEPS)][::-1]
    for i, time in enumerate(times):
        eps = guided("interpolation", z.float(), time, 4.0, copies)
        now, after = ABAR[time], ABAR[times[i + 1]] if i + 1 < STEPS else torch.tensor(1.0).double()
        x0 = (z - (1 - now).sqrt() * eps) / now.sqrt()
        z = after.sqrt() * x0 + (1 - after).sqrt() * eps
    given = copied_keyframes(jnp.moveaxis(jnp.asarray(keyframes.numpy()), 1, -1))
    ours = sampled("interpolation", steps_of(INTERPOLATION_SAMPLE), frames, given=given)
    assert relative_error(ours, z) < 1e-3


def test_super_resolution_ends_where_ddim_of_its_twin_ends():
    frames = 3
    pictures = (
        np.random.default_rng(0).uniform(-1, 1, (1, frames, SIDE, SIDE, 3)).astype(np.float32)
    )
    noisy = noisy_pictures(
        jnp.asarray(pictures), KEY[None], LOW_RESOLUTION_NOISE, level=NOISE_LEVEL
    )
    scheduler = DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(STEPS)
    z, low = noise(frames), torch.from_numpy(np.moveaxis(np.array(noisy), -1, 1))
    for time in scheduler.timesteps:
        v = guided("vsr", z, int(time), 5.0, low).float()
        z = scheduler.step(v, time, z).prev_sample
    level = jnp.full(1, NOISE_LEVEL, jnp.int32)
    ours = sampled("vsr", steps_of(SUPER_RESOLUTION_SAMPLE), frames, given=noisy, noise_level=level)
    assert relative_error(ours, z) < 1e-3


def test_sixteen_keyframes_become_sixty_one_frames():
    copies = copied_keyframes(jnp.arange(16.0).reshape(1, 16, 1, 1, 1)).ravel().tolist()
    assert len(copies) == interpolated_frames(16) == 61
    assert copies[:7] == [0, 0, 0, 1, 1, 1, 1]
    assert copies[-2:] == [15, 15]


def test_pictures_get_the_noise_of_level_50():
    """abar of the upscaler's own schedule there is .99084381."""
    x = jnp.ones((1, 2, 200, 200, 3))
    noisy = noisy_pictures(x, KEY[None], LOW_RESOLUTION_NOISE, level=50)
    assert float(noisy.mean()) == pytest.approx(0.99084381**0.5, abs=1e-3)
    assert float(noisy.std()) == pytest.approx(0.00915619**0.5, rel=0.01)


def test_a_clip_is_upscaled_in_parts_of_eight_frames():
    parts = [(part.start, part.stop) for part in parts_of(61)]
    assert parts[0] == (0, 8)
    assert parts[-1] == (56, 61)
    assert len(parts) == 8
