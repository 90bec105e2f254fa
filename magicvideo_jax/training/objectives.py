"""What each stage minimises: one function a stage, each returning an `Objective`.

    L = E || target - network(alpha z_0 + sigma eps, t, text, fps) ||^2       (1)  with prompts dropped for guidance
    L = mean_s (mean |e_s| + mean e_s^2) + w_KL KL(q(z|x) || N(0, 1))         (2)  the VAE; e_s is the error D(z) - x
        averaged over squares of s = 1, 2, 4 .. pixels, up to those of a latent

A batch is a dict of arrays with the batch axis first: `ids` (b l) and `pixels` uint8 (b t h w c), or instead of them
`text` (b l d) and `latents` (b t h w c) made beforehand; optionally `fps` (b) and `is_captioned` (b).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import at_least, positive, share
from magicvideo_jax.core.keys import named
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Condition, Params
from magicvideo_jax.diffusion.loss import min_snr_weight, per_example_mse
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt, target
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.training.step import Metrics, Objective, Step

TIME_BINS = 10


@dataclass(frozen=True)
class DenoisingConfig:
    """How eq. 1 is weighed and what is withheld."""

    caption_dropout: float = 0.1
    """Share of examples trained with the empty prompt, for classifier-free guidance."""
    min_snr: float | None = None
    """gamma of min-SNR weighting (2303.09556), or none: every time counts alike."""
    time_shift: float = 1.0
    """How far times are moved towards more noise, k in t' = k t / (1 + (k - 1) t) (Esser et al. 2403.03206, eq. 23);
    1: not at all. A clip shows at more noise than a picture what is in it, so that is where its motion is decided."""
    image_share: float = 0.5
    """Weight of the image part of a joint batch."""

    def __post_init__(self) -> None:
        share(self, "caption_dropout", "image_share")
        positive(self, "min_snr")
        at_least(1, self, "time_shift")


@dataclass(frozen=True)
class DenoisingNetworks:
    """The networks as functions of the whole parameters, as an objective needs them."""

    encode: Callable[[Params, Float[Array, "b t h w 3"], PRNGKeyArray], Float[Array, "b t h2 w2 c"]]
    """Pixels in [-1, 1] to scaled latents, a sample of q(z | x)."""
    encode_text: Callable[[Params, Int[Array, "b l"]], Float[Array, "b l d"]]
    """Token ids to text states."""
    denoise: Callable[..., Float[Array, "b t h w c"]]
    """`denoise(params, z, time, condition, as_images=...)`."""


def denoising(
    networks: DenoisingNetworks,
    noise: NoiseScheduleConfig,
    config: DenoisingConfig,
    *,
    null_ids: Int[np.ndarray, "l"],
    as_images: bool = False,
) -> Objective:
    """Eq. 1 for clips, or `as_images` for pictures (clips of any number of frames, each by itself)."""
    schedule = schedule_of(noise)

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: Step, /
    ) -> tuple[Array, Metrics]:
        del step
        z0 = (
            batch["latents"]
            if "latents" in batch
            else networks.encode(params, to_float(batch["pixels"]), named(key, "vae"))
        )
        z0 = jax.lax.stop_gradient(z0).astype(jnp.float32)
        b = z0.shape[0]
        told = jax.random.uniform(named(key, "caption"), (b,)) >= config.caption_dropout
        condition = Condition(
            _text(params, batch, told & batch.get("is_captioned", told)), batch.get("fps")
        )
        time = spread_times(named(key, "time"), b, len(schedule), shift=config.time_shift)
        eps = jax.random.normal(named(key, "noise"), z0.shape)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        output = networks.denoise(
            params,
            corrupt(z0, eps, alpha, sigma),
            time.astype(jnp.float32),
            condition,
            as_images=as_images,
        )
        kind = noise.prediction_type
        losses = per_example_mse(output, target(kind, z0, eps, alpha=alpha, sigma=sigma))
        weighted = losses
        if config.min_snr is not None:
            weighted = losses * min_snr_weight(kind, alpha=alpha, sigma=sigma, gamma=config.min_snr)
        return weighted.mean(), by_time(losses, time, len(schedule))

    def _text(params: Params, batch: Mapping[str, Array], is_told: Array) -> Array:
        null = jnp.asarray(null_ids, jnp.int32)[None]
        if "text" in batch:
            return jnp.where(
                is_told[:, None, None], batch["text"], networks.encode_text(params, null)
            )
        return networks.encode_text(params, jnp.where(is_told[:, None], batch["ids"], null))

    return objective


def spread_times(
    key: PRNGKeyArray, number: int, times: int, *, shift: float = 1.0
) -> Int[Array, "b"]:
    """Uniform times at equal distances from a random first one (Kingma et al. 2107.00630, appendix I.1): every batch
    has little and much noise in it, so that its loss tells more about the network than about its luck. With `shift`
    they are moved afterwards (`DenoisingConfig.time_shift`)."""
    places = (jax.random.uniform(key) + jnp.arange(number) / number) % 1
    places = shift * places / (1 + (shift - 1) * places)
    return jnp.minimum((places * times).astype(jnp.int32), times - 1)


def joint(video: Objective, image: Objective, config: DenoisingConfig) -> Objective:
    """Clips and pictures in one step (batches `{"video": .., "image": ..}`); pictures skip all temporal networks."""

    def objective(
        params: Params, batch: Mapping[str, Any], key: PRNGKeyArray, step: Step, /
    ) -> tuple[Array, Metrics]:
        video_loss, metrics = video(params, batch["video"], named(key, "video"), step)
        image_loss, _ = image(params, batch["image"], named(key, "image"), step)
        loss = (1 - config.image_share) * video_loss + config.image_share * image_loss
        return loss, metrics | {"video_loss": video_loss, "image_loss": image_loss}

    return objective


@dataclass(frozen=True)
class AutoencodingConfig:
    """Weights of eq. 2."""

    kl: float = 1e-6

    def __post_init__(self) -> None:
        at_least(0, self, "kl")


def autoencoding(
    encode: Callable[[Params, Float[Array, "b t h w 3"]], tuple[Array, Array]],
    decode: Callable[[Params, Float[Array, "b t h w c"]], Array],
    config: AutoencodingConfig,
) -> Objective:
    """Eq. 2: the image VAE, frame by frame.

    Without the coarse errors a small VAE spends its latents on outlines, and gives one colour for another.
    """

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: Step, /
    ) -> tuple[Array, Metrics]:
        del step
        x = to_float(batch["pixels"])
        mean, log_variance = encode(params, x)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(named(key, "vae"), mean.shape)
        error = decode(params, z) - x
        l1, l2 = jnp.abs(error).mean(), jnp.square(error).mean()
        scales = [error]
        while scales[-1].shape[-2] > z.shape[-2]:
            scales.append(reduce(scales[-1], "b t (h m) (w n) c -> b t h w c", "mean", m=2, n=2))
        misses = [jnp.abs(e).mean() + jnp.square(e).mean() for e in scales]
        kl = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).mean()
        psnr = -10 * jnp.log10(l2 / 4 + 1e-10)
        return sum(misses) / len(misses) + config.kl * kl, {
            "l1": l1,
            "psnr": psnr,
            "kl": kl,
            "latent_std": mean.std(),
        }

    return objective


def by_time(losses: Float[Array, "b"], time: Int[Array, "b"], times: int) -> Metrics:
    """Sum and number of losses in equal bins of diffusion time; the log divides one by the other."""
    which = jax.nn.one_hot(time * TIME_BINS // times, TIME_BINS)
    return {"time_bin_loss": losses @ which, "time_bin_count": which.sum(0)}
