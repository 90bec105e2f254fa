"""Of a VideoVAE: clips it has not seen through its own decoder and the decoder of images it was made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.evaluation.reconstruction import compare_decoders
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import held_out_batches, held_out_prompts
from magicvideo_jax.experiment.initial_weights import initial_weights
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import PreviewRows, Scores
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.sampling.decoding import StreamingDecode, decode_clips

IMAGE, STILLS, VIDEO = "image", "stills", "video"
"""The decoder of images at the beginning, the trained one without its temporal layers, and with them."""

PREVIEW_SOURCES = 3
"""Clips, in rows of their own for each decoder."""


class VideoVAEEvaluator:
    """An `Outcome`. The decoder of images is that of `init_from`; where that is not there any more, it is left out with
    a message."""

    def __init__(self, experiment: Experiment, networks: Networks):
        @jit
        def encode(params: Params, pixels: jax.Array) -> jax.Array:
            return networks.moments(params, to_float(pixels))[0]

        @jit
        def decode(params: Params, z: jax.Array) -> jax.Array:
            return decode_clips(z, networks.decoder(params, is_scaled=False), experiment.decode)

        @jit
        def stills(params: Params, z: jax.Array) -> jax.Array:
            return decode_clips(z, _as_images(networks, params), experiment.decode)

        self._experiment = experiment
        self._encode, self._decode, self._stills = encode, decode, stills
        self._images = _decoder_of_images(experiment)

    def preview(self, params: Params) -> PreviewRows:
        """Clip by clip the source, what each decoder makes of it, and where each flickers: how far its change from the
        frame before is from the source's, on black, four times as bright."""
        true = next(held_out_batches(self._experiment, None))["pixels"][:PREVIEW_SOURCES]
        z = self._latents(params, true)
        made = {name: decode(z) for name, decode in self._by_name(params).items() if name != STILLS}
        shown = [("source", true)] + [(f"{name} decoder", clips) for name, clips in made.items()]
        shown += [
            (f"{name} decoder, flicker x 4", _flicker(clips, true)) for name, clips in made.items()
        ]
        asked = held_out_prompts(self._experiment, len(true))
        return [
            (f"{name}: {one.prompt}", clips[i])
            for i, one in enumerate(asked)
            for name, clips in shown
        ]

    def metrics(self, params: Params) -> Scores:
        """By each decoder (`evaluation/reconstruction.py`), and by how much the VideoVAE's changes from frame to frame
        are nearer to the source's: 0.3 is 30 %."""
        clips = (batch["pixels"] for batch in held_out_batches(self._experiment, None))
        held_out = ((self._latents(params, pixels), pixels) for pixels in clips)
        compared = compare_decoders(self._by_name(params), held_out)
        scores: Scores = dict(compared)
        if IMAGE in compared:
            image, video = (compared[name]["difference_error"] for name in (IMAGE, VIDEO))
            scores["less_flicker"] = 1 - video / image
        return scores

    def _latents(
        self, params: Params, pixels: UInt8[np.ndarray, "b t h w 3"]
    ) -> Float[np.ndarray, "b t h2 w2 c"]:
        """The mean of q(z | x), unscaled."""
        return fetch_to_host(self._encode(params, pixels))

    def _by_name(
        self, params: Params
    ) -> dict[str, Callable[[Any], UInt8[np.ndarray, "b t h w 3"]]]:
        """Latents to pixels."""
        images = {} if self._images is None else {IMAGE: self._images}
        return images | {
            STILLS: lambda z: fetch_to_host(self._stills(params, z)),
            VIDEO: lambda z: fetch_to_host(self._decode(params, z)),
        }


def _flicker(
    made: UInt8[np.ndarray, "b t h w 3"], true: UInt8[np.ndarray, "b t h w 3"]
) -> np.ndarray:
    error = made.astype(np.int16) - true
    change = np.abs(np.diff(error, axis=1, prepend=error[:, :1]))
    return np.minimum(4 * change, 255).astype(np.uint8)


def _decoder_of_images(experiment: Experiment) -> Callable[[Any], np.ndarray] | None:
    try:
        _, networks, params = initial_weights(experiment.init_from).opened(Component.VAE)
    except UserError as error:
        say(f"no comparison with the decoder of images: {error}")
        return None

    clips = jit(lambda z: decode_clips(z, _as_images(networks, params), experiment.decode))
    return lambda z: np.asarray(clips(jnp.asarray(z)))


def _as_images(networks: Networks, params: Params) -> StreamingDecode:
    def decode(z: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        return networks.decode_unscaled(params, z, as_images=True), cache

    return decode
