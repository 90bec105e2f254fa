"""FreeInit against diffusers' functions, and as a loop around a sampler."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.diffusion.known_schedules import ANIMATEDIFF_NOISE
from magicvideo_jax.diffusion.sampler import initial_latents, run_sampler
from magicvideo_jax.diffusion.solvers import ddim, ddpm
from magicvideo_jax.sampling.free_init import (
    FreeInitConfig,
    LowPass,
    low_pass_filter,
    make_free_init,
    mix_frequencies,
    with_free_init,
)

SHAPE = (2, 6, 5, 8, 3)
EPS = jax.random.normal(key_for(0, 0, "eps"), SHAPE)
KEYS = jax.random.split(key_for(0, 0, "clips"), SHAPE[0])
FILTERS = [
    *(FreeInitConfig(iterations=3, low_pass=form) for form in LowPass),
    FreeInitConfig(iterations=3, order=2, spatial_stop=0.5, temporal_stop=0.2),
    FreeInitConfig(iterations=3, low_pass=LowPass.GAUSSIAN, spatial_stop=1.0, temporal_stop=0.7),
]


def to_torch(z):
    """Channels second, as in diffusers."""
    return torch.from_numpy(np.array(z)).movedim(-1, 1)


def from_torch(z):
    return z.movedim(1, -1).numpy()


def their_filter(config, shape):
    """The filter of shape (1 c t h w)."""
    return FreeInitMixin()._get_free_init_freq_filter(
        (1, shape[-1], *shape[1:4]),
        "cpu",
        config.low_pass.value,
        config.order,
        config.spatial_stop,
        config.temporal_stop,
    )


@pytest.mark.parametrize("config", FILTERS, ids=str)
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 2, 3, 1), (1, 7, 4, 4, 1)])
def test_filters_are_those_of_diffusers(config, shape):
    theirs = their_filter(config, shape)[0, 0].numpy()
    np.testing.assert_allclose(low_pass_filter(config, shape[1:4]), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", FILTERS, ids=str)
def test_frequencies_are_mixed_as_in_diffusers(config):
    """Odd axes have a filter that is not symmetric."""
    free_init = make_free_init(config, ANIMATEDIFF_NOISE, shape=SHAPE[1:])
    assert free_init is not None
    fresh = jax.random.normal(key_for(0, 0, "fresh"), SHAPE)
    ours = mix_frequencies(EPS, fresh, jnp.asarray(free_init.low_pass))
    theirs = FreeInitMixin()._apply_freq_filter(
        to_torch(EPS), to_torch(fresh), their_filter(config, SHAPE)
    )
    assert np.abs(ours - from_torch(theirs)).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("iterations", [2, 3])
def test_iterations_are_those_of_diffusers(iterations, monkeypatch):
    """Its loop and its scheduler, with our fresh noise."""
    config = FreeInitConfig(iterations=iterations)
    table = ddim(ANIMATEDIFF_NOISE, 4)
    free_init = make_free_init(config, ANIMATEDIFF_NOISE, shape=SHAPE[1:])
    assert free_init is not None

    def network(z):
        return 0.6 * z + 0.2 * (torch if isinstance(z, torch.Tensor) else jnp).sin(3 * z)

    def sample(eps, keys):
        z = initial_latents(table, eps)
        return run_sampler(lambda z, time, _: network(z), z, None, table=table, keys=keys)

    ours = with_free_init(sample, free_init)(EPS, KEYS)

    class Theirs(FreeInitMixin):
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            clip_sample=False,
        )

    def fresh_noise(k):
        keys = [
            subkey(jax.random.fold_in(subkey(key, "free init"), k), "fresh noise") for key in KEYS
        ]
        return to_torch(np.stack([jax.random.normal(key, SHAPE[1:]) for key in keys]))

    theirs, z = Theirs(), to_torch(EPS)
    theirs.enable_free_init(num_iters=iterations)
    for k in range(iterations):
        # The fresh noise of an iteration is part of the next one's start.
        monkeypatch.setattr(
            "diffusers.pipelines.free_init_utils.randn_tensor",
            lambda k=k, **_: fresh_noise(k - 1),
        )
        z, times = theirs._apply_free_init(z, k, 4, "cpu", torch.float32, None)
        for time in times:
            z = theirs.scheduler.step(network(z), time, z).prev_sample
    assert np.abs(ours - from_torch(z)).max() < 1e-5 * np.abs(ours).max()


def test_one_iteration_is_none():
    assert make_free_init(FreeInitConfig(), ANIMATEDIFF_NOISE, shape=SHAPE[1:]) is None


def test_iterations_share_a_program_and_have_noise_of_their_own():
    asked, table = [], ddpm(ANIMATEDIFF_NOISE, 2)

    @jax.jit
    def run(free_init):
        def sample(eps, keys):
            asked.append(eps.shape)
            # What the sampler adds is all that is left of this network's clips.
            return run_sampler(lambda z, *_: z, 0 * eps, None, table=table, keys=keys)

        return with_free_init(sample, free_init)(EPS, KEYS)

    clips = [
        run(make_free_init(FreeInitConfig(iterations=n), ANIMATEDIFF_NOISE, shape=SHAPE[1:]))
        for n in (2, 3, 5)
    ]
    assert len(asked) == 1
    assert (clips[0] != clips[1]).all()
    assert (clips[1] != clips[2]).all()


def test_means_come_from_the_result_and_flicker_from_fresh_noise():
    shape = (1, 6, 4, 8, 1)
    free_init = make_free_init(FreeInitConfig(iterations=2), ANIMATEDIFF_NOISE, shape=shape[1:])
    assert free_init is not None
    flicker = (-1.0) ** np.arange(6).reshape(1, -1, 1, 1, 1)
    low, high = jnp.full(shape, 3.0), jnp.asarray(np.broadcast_to(flicker, shape), jnp.float32)
    mixed = mix_frequencies(low - 2 * high, 5 * low + high, jnp.asarray(free_init.low_pass))
    np.testing.assert_allclose(mixed, low + high, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"iterations": 0}, "iterations=0: give at least 1"),
        ({"order": 0}, "order=0"),
        ({"spatial_stop": 0.0}, "spatial_stop=0.0: give more than 0"),
        ({"temporal_stop": 1.5}, "temporal_stop=1.5: give at most 1"),
    ],
)
def test_impossible_settings_are_named(fields, words):
    with pytest.raises(FieldError, match=words):
        FreeInitConfig(**fields)
