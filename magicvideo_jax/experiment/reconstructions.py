"""Of an image auto-encoder: what it makes of frames it has not seen."""

import jax
import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.held_out import held_out_images_of, held_out_prompts
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import PreviewRows, Scores
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.decoding import decode_clips

PREVIEW_IMAGES = 8
"""Pictures of a preview."""


class ImageVAEEvaluator:
    """An `Outcome`."""

    def __init__(self, experiment: Experiment, networks: Networks):
        @jit
        def reconstruct(params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
            mean, _ = networks.moments(params, to_float(pixels))
            return decode_clips(mean, networks.decoder(params, is_scaled=False)), mean.std()

        self._experiment, self._reconstruct = experiment, reconstruct

    def preview(self, params: Params) -> PreviewRows:
        """Frames, and beside each what becomes of it."""
        pictures, made, _ = self._made(params, PREVIEW_IMAGES)
        beside = np.concatenate([pictures, made], axis=1)
        return [
            (one.prompt, clip)
            for one, clip in zip(
                held_out_prompts(self._experiment, PREVIEW_IMAGES), beside, strict=True
            )
        ]

    def metrics(self, params: Params) -> Scores:
        """How near they are, whether captions still hold, and the deviation of latents: 1 / scaling."""
        number = 4 * self._experiment.evaluate.clips
        pictures, made, deviation = self._made(params, number)
        error = np.square(made.astype(np.float32) - pictures).mean(axis=(1, 2, 3, 4))
        scores: Scores = {
            "psnr": float(np.mean(10 * np.log10(255**2 / error))),
            "latent_std": deviation,
        }
        truths = [
            one.scene.truth
            for one in held_out_prompts(self._experiment, number)
            if one.scene is not None
        ]
        if truths:
            scores["caption_accuracy"] = caption_accuracy(list(made), truths)
        return scores

    def _made(
        self, params: Params, number: int
    ) -> tuple[UInt8[np.ndarray, "n 1 h w 3"], UInt8[np.ndarray, "n 1 h w 3"], float]:
        pictures = held_out_images_of(self._experiment, number)
        made, deviation = self._reconstruct(params, pictures)
        return pictures, fetch_to_host(made), float(deviation)
