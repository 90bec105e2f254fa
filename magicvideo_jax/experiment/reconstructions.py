"""Of an image auto-encoder: what it makes of frames it has not seen."""

import jax
import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.compilation import jit
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.held_out import unseen, unseen_pictures
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import Rows, Scores
from magicvideo_jax.parallel.batch import fetch
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.training.objectives import unit

SHOWN = 8
"""Pictures of a preview."""


class Reconstructions:
    """An `Outcome`."""

    def __init__(self, experiment: Experiment, networks: Networks):
        @jit
        def reconstruct(params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
            mean, _ = networks.moments(params, unit(pixels))
            return decode_clips(mean, networks.decoder(params, is_scaled=False)), mean.std()

        self._experiment, self._reconstruct = experiment, reconstruct

    def rows(self, params: Params) -> Rows:
        """Frames, and beside each what becomes of it."""
        pictures, made, _ = self._made(params, SHOWN)
        beside = np.concatenate([pictures, made], axis=1)
        return [(one.prompt, clip) for one, clip in zip(unseen(self._experiment, SHOWN), beside, strict=True)]

    def scores(self, params: Params) -> Scores:
        """How near they are, whether captions still hold, and the deviation of latents: 1 / scaling."""
        number = 4 * self._experiment.evaluate.clips
        pictures, made, deviation = self._made(params, number)
        error = np.square(made.astype(np.float32) - pictures).mean(axis=(1, 2, 3, 4))
        scores: Scores = {"psnr": float(np.mean(10 * np.log10(255**2 / error))), "latent_std": deviation}
        truths = [one.scene.truth for one in unseen(self._experiment, number) if one.scene is not None]
        if truths:
            scores["caption_accuracy"] = caption_accuracy(list(made), truths)
        return scores

    def _made(
        self, params: Params, number: int
    ) -> tuple[UInt8[np.ndarray, "n 1 h w 3"], UInt8[np.ndarray, "n 1 h w 3"], float]:
        pictures = unseen_pictures(self._experiment, number)
        made, deviation = self._reconstruct(params, pictures)
        return pictures, fetch(made), float(deviation)
