"""Objectives of denoising and of image auto-encoding.

    L = E || target - network(alpha z_0 + sigma eps, t, text, fps) ||^2       (1)  denoising, with caption dropout
    L = mean_s (mean |e_s| + mean e_s^2) + w_KL KL(q(z|x) || N(0, 1))         (2)  the VAE; e_s is the error D(z) - x
        averaged over squares of s = 1, 2, 4 .. pixels, up to one latent's

A batch is a dict of arrays with a leading batch axis: `ids` (b l) and `pixels` uint8 (b t h w c),
or precomputed `text` (b l d) and `latents` (b t h w c) in their place; optionally `fps` (b) and
`is_captioned` and `is_late` (b), of clips that begin after their motion (`draw_known_frames`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import at_least, positive, share
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import psnr_of_mse, to_float
from magicvideo_jax.core.types import Condition, FlowCondition, Params
from magicvideo_jax.diffusion.known_frames import known_frame_channels
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import corrupt, min_snr_weight, per_example_mse, target
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.training.image_prompts import ImagePrompts
from magicvideo_jax.training.known_frame_patterns import KnownFramesConfig, draw_known_frames
from magicvideo_jax.training.step import Metrics, Objective, StepNumber

TIME_BINS = 10
"""Number of equal bins of diffusion time in which losses are reported."""


@dataclass(frozen=True)
class DenoisingConfig:
    """Caption dropout, loss weights and distribution of times of eq. 1."""

    caption_dropout: float = 0.1
    """Fraction of examples trained with the empty prompt, for classifier-free guidance."""
    min_snr: float | None = None
    """gamma of min-SNR weighting (2303.09556); None weights all times equally."""
    time_shift: float = 1.0
    """Shift of times towards more noise: k in t' = k t / (1 + (k - 1) t) (Esser et al. 2403.03206,
    eq. 23); 1 is none.

    The content of a clip is visible at higher noise levels than that of an image, so its motion is
    decided there."""
    image_share: float = 0.5
    """Weight of the image loss in joint training."""
    known_frames: KnownFramesConfig = field(default_factory=KnownFramesConfig)
    """Frames that the network is given, for clips that start from pictures."""
    image_prompts: ImagePrompts = ImagePrompts.NONE
    """Examples that are conditioned on CLIP's embedding of their middle frame in place of a caption."""

    def __post_init__(self) -> None:
        share(self, "caption_dropout", "image_share")
        positive(self, "min_snr")
        at_least(1, self, "time_shift")


@dataclass(frozen=True)
class DenoisingNetworks:
    """Networks that a denoising objective calls, as functions of all parameters."""

    encode: Callable[[Params, Float[Array, "b t h w 3"], PRNGKeyArray], Float[Array, "b t h2 w2 c"]]
    """Sample of q(z | x): pixels in [-1, 1] to scaled latents."""
    encode_text: Callable[[Params, Int[Array, "b l"]], Float[Array, "b l d"]]
    """Token ids to text states."""
    denoise: Callable[..., Float[Array, "b t h w c"]]
    """`denoise(params, z, time, condition, as_images=...)`."""
    encode_frame: Callable[[Params, Mapping[str, Array]], Float[Array, "b d"]] | None = None
    """The middle frame of each clip of a batch as a text state; None for a model without `ImagePrompt`."""


def denoising_objective(
    networks: DenoisingNetworks,
    noise: NoiseScheduleConfig,
    config: DenoisingConfig,
    *,
    null_ids: Int[np.ndarray, "l"],
    as_images: bool = False,
) -> Objective:
    """Denoising objective (eq. 1) for clips, or with `as_images` for independent frames.

    `null_ids` are the token ids of the empty prompt.
    """

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        z0 = clean_latents(networks, params, batch, key)
        text = draw_text_states(networks, params, batch, key, null_ids, config)
        condition = Condition(text, batch.get("fps"))
        is_late = batch.get("is_late")
        if (config.known_frames.total or is_late is not None) and not as_images:
            is_known = draw_known_frames(
                subkey(key, "known frames"),
                config.known_frames,
                examples=len(z0),
                frames=z0.shape[1],
                is_late=is_late,
            )
            condition = condition._replace(given=known_frame_channels(z0, is_known))
        return denoising_loss(
            networks.denoise, params, z0, condition, key, noise, config, as_images=as_images
        )

    return objective


def denoising_loss(
    denoise: Callable[..., Float[Array, "b t h w c"]],
    params: Params,
    z0: Float[Array, "b t h w c"],
    condition: Condition | FlowCondition,
    key: PRNGKeyArray,
    noise: NoiseScheduleConfig,
    config: DenoisingConfig,
    *,
    as_images: bool = False,
) -> tuple[Array, Metrics]:
    """Eq. 1 for clean latents and their condition, and the losses by diffusion time. `denoise` is that of
    `DenoisingNetworks`."""
    schedule = schedule_of(noise)
    time = stratified_times(subkey(key, "time"), len(z0), len(schedule), shift=config.time_shift)
    eps = jax.random.normal(subkey(key, "noise"), z0.shape)
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    output = denoise(
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
    return weighted.mean(), losses_by_time_bin(losses, time, len(schedule))


def clean_latents(
    networks: DenoisingNetworks, params: Params, batch: Mapping[str, Array], key: PRNGKeyArray
) -> Float[Array, "b t h w c"]:
    """Latents of a batch, encoded where it has pixels; no gradient goes through them."""
    z0 = (
        batch["latents"]
        if "latents" in batch
        else networks.encode(params, to_float(batch["pixels"]), subkey(key, "vae"))
    )
    return jax.lax.stop_gradient(z0).astype(jnp.float32)


def draw_text_states(
    networks: DenoisingNetworks,
    params: Params,
    batch: Mapping[str, Array],
    key: PRNGKeyArray,
    null_ids: Int[np.ndarray, "l"],
    config: DenoisingConfig,
) -> Float[Array, "b l d"]:
    """States of a batch's captions or frames, with caption dropout."""
    b = len(jax.tree.leaves(batch)[0])
    is_kept = jax.random.uniform(subkey(key, "caption"), (b,)) >= config.caption_dropout
    return prompt_states(
        networks, params, batch, null_ids, is_kept=is_kept, image_prompts=config.image_prompts
    )


def prompt_states(
    networks: DenoisingNetworks,
    params: Params,
    batch: Mapping[str, Array],
    null_ids: Int[np.ndarray, "l"],
    *,
    is_kept: Bool[Array, "b"],
    image_prompts: ImagePrompts,
) -> Float[Array, "b l d"]:
    """Text states of a batch, those of a frame in place of the captions of some examples.

    A frame has one state, repeated to the length of a text: attention to equal states is attention
    to one.
    """
    text = text_states(networks, params, batch, null_ids, is_kept=is_kept)
    if image_prompts is ImagePrompts.NONE:
        return text
    assert networks.encode_frame is not None
    if "is_captioned" in batch:
        is_captioned = batch["is_captioned"]
    else:
        is_captioned = jnp.any(batch["ids"] != jnp.asarray(null_ids)[None], axis=-1)
    is_shown = is_kept & image_prompts.chosen(is_captioned)
    state = networks.encode_frame(params, batch)
    return jnp.where(is_shown[:, None, None], state[:, None], text)


def text_states(
    networks: DenoisingNetworks,
    params: Params,
    batch: Mapping[str, Array],
    null_ids: Int[np.ndarray, "l"],
    *,
    is_kept: Bool[Array, "b"],
) -> Float[Array, "b l d"]:
    """Text states of a batch: those of the empty prompt where a caption is not kept, or there is
    none."""
    is_kept = is_kept & batch.get("is_captioned", is_kept)
    null = jnp.asarray(null_ids, jnp.int32)[None]
    if "text" in batch:
        null_text = networks.encode_text(params, null)
        return jnp.where(is_kept[:, None, None], batch["text"], null_text)
    return networks.encode_text(params, jnp.where(is_kept[:, None], batch["ids"], null))


def stratified_times(
    key: PRNGKeyArray, number: int, times: int, *, shift: float = 1.0
) -> Int[Array, "b"]:
    """Uniform times at equal distances from a random first one (Kingma et al. 2107.00630, appendix
    I.1).

    Every batch covers all noise levels, which lowers the variance of its loss. `shift` moves the
    times afterwards (`DenoisingConfig.time_shift`).
    """
    u = (jax.random.uniform(key) + jnp.arange(number) / number) % 1
    u = shift * u / (1 + (shift - 1) * u)
    return jnp.minimum((u * times).astype(jnp.int32), times - 1)


def joint_objective(video: Objective, image: Objective, config: DenoisingConfig) -> Objective:
    """Weighted sum of a clip and an image objective, for batches `{"video": .., "image": ..}`."""

    def objective(
        params: Params, batch: Mapping[str, Any], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        video_loss, metrics = video(params, batch["video"], subkey(key, "video"), step)
        image_loss, _ = image(params, batch["image"], subkey(key, "image"), step)
        loss = (1 - config.image_share) * video_loss + config.image_share * image_loss
        return loss, metrics | {"video_loss": video_loss, "image_loss": image_loss}

    return objective


@dataclass(frozen=True)
class AutoencodingConfig:
    """Weights of eq. 2."""

    kl: float = 1e-6
    """w_KL."""

    def __post_init__(self) -> None:
        at_least(0, self, "kl")


def autoencoding_objective(
    encode: Callable[[Params, Float[Array, "b t h w 3"]], tuple[Array, Array]],
    decode: Callable[[Params, Float[Array, "b t h w c"]], Array],
    config: AutoencodingConfig,
) -> Objective:
    """Objective of the image VAE (eq. 2), frame by frame.

    `encode(params, x)` gives mean and log-variance of the latents, `decode(params, z)` pixels in
    [-1, 1]. Without the errors at coarse scales a small VAE spends its latents on outlines and
    confuses colours.
    """

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        del step
        x = to_float(batch["pixels"])
        mean, log_variance = encode(params, x)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(subkey(key, "vae"), mean.shape)
        error = decode(params, z) - x
        l1, l2 = jnp.abs(error).mean(), jnp.square(error).mean()
        scales = [error]
        while scales[-1].shape[-2] > z.shape[-2]:
            scales.append(reduce(scales[-1], "b t (h m) (w n) c -> b t h w c", "mean", m=2, n=2))
        terms = [jnp.abs(e).mean() + jnp.square(e).mean() for e in scales]
        kl = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).mean()
        return sum(terms) / len(terms) + config.kl * kl, {
            "l1": l1,
            "psnr": psnr_of_mse(l2 + 4e-10, peak=2.0),
            "kl": kl,
            "latent_std": mean.std(),
        }

    return objective


def losses_by_time_bin(losses: Float[Array, "b"], time: Int[Array, "b"], times: int) -> Metrics:
    """Sum and number of losses in each of `TIME_BINS` bins; the log reports their quotient."""
    bins = jax.nn.one_hot(time * TIME_BINS // times, TIME_BINS)
    return {"time_bin_loss": losses @ bins, "time_bin_count": bins.sum(0)}
