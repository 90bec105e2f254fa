"""The image auto-encoder, on single frames."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.prompt_stage import check_freeze
from magicvideo_jax.experiment.stages.stage import (
    Evaluator,
    PreviewRows,
    Stage,
    refuse_image_prompts,
    refuse_video_options,
)
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.decoding import decode_clips
from magicvideo_jax.training.objectives import autoencoding_objective
from magicvideo_jax.training.step import Objective

PREVIEW_IMAGES = 8
_IMAGES_PER_CLIP = 4
"""An image costs less than a clip: so many are evaluated for each of `evaluate.clips`."""


class ImageVAE(Stage):
    """The VAE alone, encoder and decoder, on images without captions."""

    name = "vae"
    trains_single_images = True
    default_metrics = ("caption_accuracy", "psnr")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return (Component.VAE,)

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        refuse_image_prompts(experiment)
        check_freeze(experiment)

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        decode = partial(networks.decode_unscaled, as_images=True)
        return autoencoding_objective(networks.moments, decode, experiment.autoencoding)

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        return ImageVAEEvaluator(experiment, networks, held_out, self.metrics_of(experiment))

    def finished(self, experiment: Experiment, scores: Scores) -> Experiment:
        """Latents of a new VAE are scaled to variance 1."""
        deviation = scores["latent_std"]
        assert isinstance(deviation, float)
        vae = replace(experiment.model.vae, scaling=1 / deviation)
        return replace(experiment, model=replace(experiment.model, vae=vae))


class ImageVAEEvaluator:
    """Reconstructions of held-out images."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        held_out: HeldOut,
        metrics: tuple[str, ...],
    ):
        @jit
        def reconstruct(params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
            mean, _ = networks.moments(params, to_float(pixels))
            return decode_clips(mean, networks.decoder(params, is_scaled=False)), mean

        self._experiment, self._held_out, self._reconstruct = experiment, held_out, reconstruct
        self._metrics = metrics

    def preview(self, params: Params) -> PreviewRows:
        """Images, each followed by its reconstruction."""
        images, reconstructed, _ = self._reconstructions(params, PREVIEW_IMAGES)
        prompts = self._held_out.prompts(PREVIEW_IMAGES)
        pairs = np.concatenate([images, reconstructed], axis=1)
        return [(one.prompt, pair) for one, pair in zip(prompts, pairs, strict=True)]

    def metrics(self, params: Params) -> Scores:
        """The named metrics, and the standard deviation of latents: 1 / scaling."""
        number = _IMAGES_PER_CLIP * self._experiment.evaluate.clips
        images, reconstructed, deviation = self._reconstructions(params, number)
        scenes = [one.scene for one in self._held_out.prompts(number)]
        truths = [scene.truth for scene in scenes if scene is not None]
        measured = MetricInput(reconstructed, reference=images, truths=truths or None)
        return {"latent_std": deviation} | measure(self._metrics, measured)

    def _reconstructions(
        self, params: Params, number: int
    ) -> tuple[UInt8[np.ndarray, "n 1 h w 3"], UInt8[np.ndarray, "n 1 h w 3"], float]:
        """Batches of `evaluate.batch_size`, because all images at once may not fit a device."""
        images = self._held_out.images(number)
        size = min(self._experiment.evaluate.batch_size, len(images))
        decoded, latents = [], []
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            padding = np.repeat(batch[-1:], size - len(batch), axis=0)
            pixels, mean = self._reconstruct(params, np.concatenate([batch, padding]))
            decoded.append(fetch_to_host(pixels)[: len(batch)])
            latents.append(fetch_to_host(mean)[: len(batch)])
        return images, np.concatenate(decoded), float(np.concatenate(latents).std())
