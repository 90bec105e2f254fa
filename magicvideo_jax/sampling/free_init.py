"""FreeInit (Wu et al. 2312.07537): steadier clips by sampling again from better noise.

The low frequencies of training noise leak the clip; pure noise has none of that, and a model
answers with flicker. So each result is made noisy again and gives the low frequencies of the next
start, fresh noise the high ones:

    z_T  = alpha_T z_0 + sigma_T eps,    eps: the first noise                                                 (1)
    next = ifft( L fft(z_T) + (1 - L) fft(fresh noise) )      over t, h, w                                    (2)
    D^2  = ((d_s / d_t) f_t)^2 + f_h^2 + f_w^2,    f: frequencies over the Nyquist frequency, -1 .. 1         (3)

    butterworth  L = 1 / (1 + (D / d_s)^(2 n))
    gaussian     L = exp(-D^2 / (2 d_s^2))
    ideal        L = 1 where D^2 <= 2 d_s, else 0                      (the authors' code and diffusers)

It costs `iterations` times as much as sampling once. It is for clips that flicker or change their
subject, of any length; for more frames than a model was trained on, see `windows.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from magicvideo_jax.core.checks import at_least, at_most, positive
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt
from magicvideo_jax.diffusion.schedule import schedule_of


class LowPass(Enum):
    """Form of the low-pass filter L."""

    BUTTERWORTH = "butterworth"
    GAUSSIAN = "gaussian"
    IDEAL = "ideal"


@dataclass(frozen=True)
class FreeInitConfig:
    """Repeated sampling from refined noise. The defaults of the filter are the paper's."""

    iterations: int = 1
    """How often a clip is sampled; 1: once, without FreeInit. The paper's is 3 to 5."""
    low_pass: LowPass = LowPass.BUTTERWORTH
    order: int = 4
    """n of the Butterworth filter: larger is sharper."""
    spatial_stop: float = 0.25
    """d_s of eq. 3, as a share of the Nyquist frequency."""
    temporal_stop: float = 0.25
    """d_t of eq. 3, as a share of the Nyquist frequency."""

    def __post_init__(self) -> None:
        at_least(1, self, "iterations", "order")
        positive(self, "spatial_stop", "temporal_stop")
        at_most(1, self, "spatial_stop", "temporal_stop")


@dataclass(frozen=True, eq=False)
class FreeInit:
    """Numbers of FreeInit for clips of one shape: a pytree, all of which is traced."""

    iterations: Any
    alpha: Any
    sigma: Any
    """Noise level of the last training time (eq. 1)."""
    low_pass: Float[Any, "t h w"]
    """Filter over frequencies in the order of the FFT."""


jax.tree_util.register_dataclass(
    FreeInit, data_fields=["iterations", "alpha", "sigma", "low_pass"], meta_fields=[]
)

Sample = Callable[[Float[Array, "b t h w c"], Key[Array, "b"]], Float[Array, "b t h w c"]]
"""Clean latents from unit noise; a key per example is for what is random on the way."""


def make_free_init(
    config: FreeInitConfig, noise: NoiseScheduleConfig, *, shape: tuple[int, ...]
) -> FreeInit | None:
    """FreeInit for latents of `shape` (t h w ...); None for a single iteration."""
    if config.iterations == 1:
        return None
    abar = schedule_of(noise).alphas_cumprod[-1]
    t, h, w = shape[:3]
    return FreeInit(
        np.int32(config.iterations),
        np.float32(np.sqrt(abar)),
        np.float32(np.sqrt(1 - abar)),
        np.fft.ifftshift(low_pass_filter(config, (t, h, w))).astype(np.float32),
    )


def low_pass_filter(
    config: FreeInitConfig, shape: tuple[int, int, int]
) -> Float64[np.ndarray, "t h w"]:
    """Low-pass filter L of eq. 2, 3 over frequencies in ascending order."""
    f_t, f_h, f_w = np.meshgrid(*(2 * np.arange(n) / n - 1 for n in shape), indexing="ij")
    stop = config.spatial_stop
    squared = (stop / config.temporal_stop * f_t) ** 2 + f_h**2 + f_w**2
    match config.low_pass:
        case LowPass.BUTTERWORTH:
            return 1 / (1 + (squared / stop**2) ** config.order)
        case LowPass.GAUSSIAN:
            return np.exp(-squared / (2 * stop**2))
        case LowPass.IDEAL:
            return (squared <= 2 * stop).astype(np.float64)


def mix_frequencies(
    z: Float[Array, "b t h w c"], fresh: Float[Array, "b t h w c"], low_pass: Float[Array, "t h w"]
) -> Float[Array, "b t h w c"]:
    """Low frequencies of `z` and high frequencies of `fresh` (eq. 2)."""
    axes = (1, 2, 3)
    share = low_pass[None, ..., None]
    # One transform of the difference in place of two: L Z + (1 - L) F = F + L (Z - F).
    low = jnp.fft.ifftn(share * jnp.fft.fftn(z - fresh, axes=axes), axes=axes)
    return fresh + low.real


def with_free_init(sample: Sample, free_init: FreeInit) -> Sample:
    """Sampling that repeats `sample`, each time from noise refined by the last result (eq. 1, 2).

    All of it is one loop in one program: another number of iterations compiles nothing.
    """

    def wrapped(eps: Float[Array, "b t h w c"], keys: Key[Array, "b"]) -> Float[Array, "b t h w c"]:
        def iterate(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            noise, _ = carry
            own = jax.vmap(lambda key: jax.random.fold_in(subkey(key, "free init"), k))(keys)
            z0 = sample(noise, own)
            fresh = jax.vmap(
                lambda key: jax.random.normal(subkey(key, "fresh noise"), eps.shape[1:])
            )(own)
            noisy = corrupt(z0, eps, jnp.asarray(free_init.alpha), jnp.asarray(free_init.sigma))
            return mix_frequencies(noisy, fresh, jnp.asarray(free_init.low_pass)), z0

        start = eps, jnp.zeros_like(eps)
        _, z0 = jax.lax.fori_loop(0, free_init.iterations, iterate, start)
        return z0

    return wrapped
