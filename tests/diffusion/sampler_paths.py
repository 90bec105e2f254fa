"""Latents after every step of a sampler, and those of diffusers' scheduler of that name."""

import enum
import inspect
from dataclasses import fields, replace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from magicvideo_jax.core.keys import key_for, subkey
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.sampler import run_sampler

SHAPE = (2, 1, 2, 2, 3)
KEYS = jax.random.split(key_for(0, 0, "a test"), SHAPE[0])
NOISE = jax.random.normal(key_for(0, 0, "latents"), SHAPE)


def network(z, time, told):
    """Any smooth function, of jax arrays and of torch tensors."""
    waves = torch.sin if isinstance(z, torch.Tensor) else jnp.sin
    slope = float(time) if isinstance(z, torch.Tensor) else time.reshape(-1, 1, 1, 1, 1)
    return 0.7 * z + 0.2 * waves(3 * z + 0.004 * slope)


def step_noise(number: int) -> torch.Tensor:
    """The noise of a step, by the keys that the sampler documents."""
    keys = [jax.random.fold_in(subkey(key, "sampler noise"), number) for key in KEYS]
    return torch.from_numpy(
        np.stack([jax.random.normal(key, SHAPE[1:], jnp.float32) for key in keys])
    )


def scheduler_of(kind, settings: NoiseScheduleConfig, **others):
    """A diffusers scheduler from the same fields under the same names."""
    named_fields = {field.name: getattr(settings, field.name) for field in fields(settings)}
    plain = {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in named_fields.items()
    }
    accepted = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in plain.items() if name in accepted}, **others)


def walked(scheduler, z, steps: int, *, begin_at: int = 0, **step_arguments):
    """The latents after every step of a diffusers scheduler."""
    scheduler.set_timesteps(steps)
    if begin_at:
        scheduler.set_begin_index(begin_at)
    z, path = torch.from_numpy(np.array(z)), []
    for number, time in list(enumerate(scheduler.timesteps[:steps]))[begin_at:]:
        told = {"variance_noise": step_noise(number)} if step_arguments.get("eta") else {}
        output = network(scheduler.scale_model_input(z, time), time, None)
        z = scheduler.step(output, time, z, **step_arguments, **told).prev_sample
        path.append(z.numpy())
    return np.stack(path)


def walked_by_euler(settings: NoiseScheduleConfig, z, steps: int, *, begin_at: int = 0):
    """Euler's latents, divided by sqrt(1 + sigma^2): variance preserving like all others."""
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, settings)
    scheduler.set_timesteps(steps)
    growth = np.sqrt(1 + scheduler.sigmas.numpy() ** 2)
    path = walked(scheduler, np.asarray(z) * growth[begin_at], steps, begin_at=begin_at)
    return path / growth[1 + begin_at :, None, None, None, None, None]


@jax.jit
def path_of(table, z):
    """The latents after every step, from tables whose later rows are identities.

    One compilation serves all tables of one length and one kind of prediction.
    """
    rows = table.steps

    def after(is_taken):
        taken = rows._replace(
            a=jnp.where(is_taken, rows.a, 1),
            b=jnp.where(is_taken, rows.b, 0),
            c=jnp.where(is_taken, rows.c, 0),
            d=jnp.where(is_taken, rows.d, 0),
            s=jnp.where(is_taken, rows.s, 0),
        )
        return run_sampler(network, z, None, table=replace(table, steps=taken), keys=KEYS)

    return jax.vmap(after)(jnp.tril(jnp.ones((len(rows.time), len(rows.time)), bool)))


def assert_same_path(table, theirs, z=NOISE, *, within=1e-4):
    ours = path_of(table, z)
    assert ours.shape == theirs.shape
    for number, (mine, other) in enumerate(zip(np.asarray(ours), theirs, strict=True)):
        error = np.abs(mine - other).max() / np.abs(other).max()
        assert error <= within, f"step {number}: {error:.1e}"
