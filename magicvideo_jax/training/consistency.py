"""Consistency distillation: a student that finds the clean latents of a guided model in one step
(Song et al. 2303.01469; in latents and with guidance inside, Luo et al. 2310.04378).

    f(z, t, w)  = c_skip z + c_out z_0(student(z, t, w))                      (1)  2310.04378, eq. 9
    c_skip      = 0.25 / ((10 t)^2 + 0.25),   c_out = 10 t / sqrt((10 t)^2 + 0.25)
    z_s         = one DDIM step of the teacher, guided by w, from z_t to the next time s < t
    L           = E h(f(z_t, t, w) - stop(f(z_s, s, w))),   h(d) = sqrt(d^2 + c^2) - c                    (2)

The target of eq. 2 is the student itself without a gradient, rather than an average of it, which
reaches the same in fewer steps (Song & Dhariwal 2310.14189, section 3.2).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import positive, refused
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.types import Condition, Params
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt, to_x0
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.solvers import CONSISTENCY_TIMES, consistency_times
from magicvideo_jax.training.objectives import (
    DenoisingNetworks,
    clean_latents,
    stratified_times,
    text_states,
)
from magicvideo_jax.training.step import Metrics, Objective, StepNumber


@dataclass(frozen=True)
class ConsistencyConfig:
    """Distillation into a student of few steps."""

    guidance: tuple[float, ...] = (2.0, 8.0)
    """Least and largest scale of guidance that the student learns."""
    huber: float = 1e-3
    """c of eq. 2: differences that are larger count linearly."""

    def __post_init__(self) -> None:
        positive(self, "huber")
        if len(self.guidance) != 2 or not 1 <= self.guidance[0] <= self.guidance[1]:
            raise refused(self, "guidance", "give two scales from 1 on, the smaller first")


def consistency_objective(
    networks: DenoisingNetworks,
    teacher: Callable[..., Float[Array, "b t h w c"]],
    noise: NoiseScheduleConfig,
    config: ConsistencyConfig,
    *,
    null_ids: Int[np.ndarray, "l"],
) -> Objective:
    """Distillation (eq. 2) of `teacher(params, z, time, condition)` into `networks.denoise`."""
    schedule, kind = schedule_of(noise), noise.prediction_type
    starts = consistency_times(noise, CONSISTENCY_TIMES)
    ends = np.append(starts[1:], 0)

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        z0 = clean_latents(networks, params, batch, key)
        b = z0.shape[0]
        text = text_states(networks, params, batch, null_ids, is_kept=jnp.ones(b, bool))
        null = networks.encode_text(params, jnp.asarray(null_ids, jnp.int32)[None])
        low, high = config.guidance
        scale = jax.random.uniform(subkey(key, "guidance"), (b,), minval=low, maxval=high)
        index = stratified_times(subkey(key, "time"), b, len(starts))
        t, s = jnp.asarray(starts)[index], jnp.asarray(ends)[index]
        z = corrupt(
            z0,
            jax.random.normal(subkey(key, "noise"), z0.shape),
            schedule.alpha(t),
            schedule.sigma(t),
        )

        def student(params: Params, z: Array, time: Array) -> Array:
            condition = Condition(text, batch.get("fps"), guidance=scale)
            output = networks.denoise(params, z, time.astype(jnp.float32), condition)
            x0 = to_x0(kind, output, z, alpha=schedule.alpha(time), sigma=schedule.sigma(time))
            skip, out = (_per_example(share) for share in boundary(time))
            return skip * z + out * x0

        def guided_teacher(z: Array, time: Array) -> Array:
            condition = Condition(text, batch.get("fps"))
            null_text = jnp.broadcast_to(null, text.shape)
            network = guided(
                lambda *inputs: teacher(params, *inputs),
                _per_example(scale),
                condition._replace(text=null_text),
            )
            return network(z, time.astype(jnp.float32), condition)

        output = guided_teacher(z, t)
        x0 = to_x0(kind, output, z, alpha=schedule.alpha(t), sigma=schedule.sigma(t))
        eps = (z - _per_example(schedule.alpha(t)) * x0) / _per_example(schedule.sigma(t))
        z_next = corrupt(x0, eps, schedule.alpha(s), schedule.sigma(s))
        target = jax.lax.stop_gradient(student(params, z_next, s))
        difference = student(params, z, t) - target
        c = config.huber
        loss = jnp.mean(jnp.sqrt(jnp.square(difference) + c**2) - c)
        return loss, {"difference": jnp.sqrt(jnp.mean(jnp.square(difference)))}

    return objective


def boundary(time: Int[Array, "b"]) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """c_skip and c_out of eq. 1: at time 0 the latents are already clean."""
    scaled = jnp.square(10.0 * time.astype(jnp.float32))
    return 0.25 / (scaled + 0.25), jnp.sqrt(scaled / (scaled + 0.25))


def _per_example(x: Float[Array, "b"]) -> Float[Array, "b 1 1 1 1"]:
    return x[:, None, None, None, None]
