"""Of a text-to-image or text-to-video model: what it draws for captions it has not seen, and its loss there."""

from dataclasses import replace
from functools import cached_property
from typing import Any

from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.loss_by_time import loss_by_time
from magicvideo_jax.evaluation.motion import motion_metrics as motion
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.held_out import HeldOutPrompt, held_out_batches, held_out_prompts
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import PreviewRows, Scores
from magicvideo_jax.experiment.step import make_objective
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.training.step import Metrics

PREVIEW_CLIPS = 8
"""Clips of a preview."""


class TextToVideoEvaluator:
    """An `Outcome`. One program for looking and scoring: sampling takes as long to compile as training."""

    def __init__(self, experiment: Experiment, networks: Networks, tokenize: Tokenize):
        self._experiment, self._networks, self._tokenize = experiment, networks, tokenize
        self._generator = Generator(experiment, networks, tokenize)

    def preview(self, params: Params) -> PreviewRows:
        """Held-out captions, sampled."""
        clips = self._generator.generate(params, _request(self._shown), what="preview")
        return [(one.prompt, clip) for one, clip in zip(self._shown, clips, strict=True)]

    def metrics(self, params: Params) -> Scores:
        """How much moves, of drawn shapes whether they are what was asked for, and the loss by diffusion time."""
        asked = held_out_prompts(self._experiment, self._experiment.evaluate.clips)
        made = self._generator.generate(params, _request(asked), what="score")
        scores: Scores = {"clips": float(len(made))}
        truths = [one.scene.truth for one in asked if one.scene is not None]
        if truths:
            scores = {"caption_accuracy": caption_accuracy(list(made), truths)} | scores
        if made.shape[1] > 1:
            scores["motion"] = dict(motion(made))
        return scores | {"held_out_loss": self._losses(params)}

    @cached_property
    def _shown(self) -> list[HeldOutPrompt]:
        return held_out_prompts(self._experiment, PREVIEW_CLIPS)

    def _losses(self, params: Params) -> dict[str, float]:
        told = replace(
            self._experiment,
            denoising=replace(self._experiment.denoising, caption_dropout=0.0, time_shift=1.0),
            data=replace(self._experiment.data, joint_images=False),
        )
        objective = jit(make_objective(told, self._networks, self._tokenize))

        def measure(batch: Any, number: int) -> Metrics:
            return objective(params, batch, key_for(0, number, "held out"), 0)[1]

        return dict(loss_by_time(measure, held_out_batches(self._experiment, self._tokenize)))


def _request(asked: list[HeldOutPrompt]) -> SampleRequest:
    return SampleRequest(prompts=[one.prompt for one in asked], fps=[one.fps for one in asked])
