"""The scores of a work folder: what `evaluate` prints and the last line of a training run."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.compilation import jit, keep_compiled
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.loss_by_time import run as loss_by_time
from magicvideo_jax.evaluation.motion import run as motion
from magicvideo_jax.experiment.config import Experiment, Stage
from magicvideo_jax.experiment.decoders import Decoders, score_decoders
from magicvideo_jax.experiment.generate import Generator, Request
from magicvideo_jax.experiment.held_out import unseen, unseen_batches, unseen_pictures
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.step import make_objective
from magicvideo_jax.experiment.workfolder import WorkFolder, trained_params
from magicvideo_jax.parallel.batch import fetch
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.training.objectives import unit
from magicvideo_jax.training.step import Metrics

Scores = dict[str, float | dict[str, float]]


def score_folder(folder: WorkFolder, *, clips: int | None = None) -> Scores:
    """The scores of a work folder's newest checkpoint."""
    keep_compiled()
    experiment = folder.experiment()
    if clips is not None:
        if clips < 1:
            raise UserError(f"--clips={clips}: give at least 1")
        experiment = replace(experiment, evaluate=replace(experiment.evaluate, clips=clips))
    networks = Networks(experiment.model)
    params = trained_params(folder, networks, experiment)
    if experiment.stage is Stage.VAE:
        return score_reconstructions(experiment, networks, params)[0]
    if experiment.stage is Stage.VIDEO_VAE:
        return score_decoders(Decoders(experiment, networks), experiment, params)
    tokenizer = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    return score_denoiser(Generator(experiment, networks, tokenizer), params)


def score_denoiser(generator: Generator, params: Params) -> Scores:
    """Of a text-to-image or text-to-video model: what it draws, and its loss on what it has not seen."""
    experiment, networks, tokenizer = generator.experiment, generator.networks, generator.tokenizer
    scores = _score_samples(generator, params)
    told = replace(
        experiment,
        denoising=replace(experiment.denoising, drop_caption=0.0, time_shift=1.0),
        data=replace(experiment.data, with_pictures=False),
    )
    objective = jit(make_objective(told, networks, tokenizer))

    def measure(batch: Any, number: int) -> Metrics:
        return objective(params, batch, key_for(0, number, "held out"), 0)[1]

    return scores | {"held_out_loss": dict(loss_by_time(measure, unseen_batches(experiment, tokenizer)))}


def _score_samples(generator: Generator, params: Params) -> Scores:
    """Held-out captions sampled: how much moves, and of drawn shapes whether they are what was asked for."""
    asked = unseen(generator.experiment, generator.experiment.evaluate.clips)
    request = Request(prompts=[one.prompt for one in asked], fps=[one.fps for one in asked])
    made = generator.generate(params, request, what="score")
    scores: Scores = {"clips": float(len(made))}
    truths = [one.scene.truth for one in asked if one.scene is not None]
    if truths:
        scores = {"caption_accuracy": caption_accuracy(list(made), truths)} | scores
    if made.shape[1] > 1:
        scores["motion"] = dict(motion(made))
    return scores


def score_reconstructions(experiment: Experiment, networks: Networks, params: Params) -> tuple[Scores, float]:
    """Of a VAE: how near its pictures are, whether captions still hold, and 1 / std of its latents (the scaling)."""
    number = 4 * experiment.evaluate.clips
    shown, pictures = unseen(experiment, number), unseen_pictures(experiment, number)

    @jit
    def reconstruct(params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, _ = networks.moments(params, unit(pixels))
        return decode_clips(mean, networks.decoder(params, is_scaled=False)), mean.std()

    made, deviation = reconstruct(params, pictures)
    made = fetch(made)
    error = np.square(made.astype(np.float32) - pictures).mean(axis=(1, 2, 3, 4))
    scores: Scores = {
        "psnr": float(np.mean(10 * np.log10(255**2 / error))),
        "latent_std": float(deviation),
    }
    truths = [one.scene.truth for one in shown if one.scene is not None]
    if truths:
        scores["caption_accuracy"] = caption_accuracy(list(made), truths)
    return scores, 1 / float(deviation)


def table(scores: Scores) -> Iterator[str]:
    """Lines for a person."""
    for name, value in scores.items():
        if isinstance(value, dict):
            yield name
            yield from (f"  {part:<16} {number:8.3f}" for part, number in value.items())
        else:
            yield f"{name:<14} {value:8.3f}"
