"""Evaluation of models that sample from prompts: held-out captions are sampled and measured."""

from typing import Any

import numpy as np

from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import KnownFrames, Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.loss_by_time import loss_by_time
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.held_out import HeldOut, HeldOutPrompt
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.stage import PreviewRows
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.training.step import Metrics, Objective

PREVIEW_CLIPS = 8


class PromptEvaluator:
    """An `Evaluator`. Previews and metrics share one compiled program: sampling takes as long to compile as a step."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize,
        held_out: HeldOut,
        *,
        objective: Objective,
        metrics: tuple[str, ...],
        known: tuple[bool, ...] | None = None,
        as_images: bool = False,
    ):
        """`objective` is the loss on held-out examples, `metrics` the names to measure by, and `known` which frames of
        a held-out clip a sample is told."""
        self._experiment, self._tokenize, self._held_out = experiment, tokenize, held_out
        self._metrics, self._known = metrics, known
        self._generator = Generator(
            experiment,
            networks,
            tokenize,
            frames=held_out.frames,
            as_images=as_images,
            starts=networks.start,
        )
        self._objective = jit(objective)

    def preview(self, params: Params) -> PreviewRows:
        """Samples of the first held-out captions."""
        prompts = self._held_out.prompts(PREVIEW_CLIPS)
        clips = self._generator.generate(params, self._request(prompts), label="preview")
        return [(one.prompt, clip) for one, clip in zip(prompts, clips, strict=True)]

    def metrics(self, params: Params) -> Scores:
        """The named metrics over samples of `evaluate.clips` held-out captions."""
        prompts = self._held_out.prompts(self._experiment.evaluate.clips)
        request = self._request(prompts)
        samples = self._generator.generate(params, request, label="evaluate")
        truths = [one.scene.truth for one in prompts if one.scene is not None]
        measured = MetricInput(
            samples,
            reference=None if request.clips is None else request.clips.pixels,
            truths=truths or None,
            held_out_loss=lambda: self._held_out_loss(params),
        )
        return {"clips": float(len(samples))} | measure(self._metrics, measured)

    def _held_out_loss(self, params: Params) -> dict[str, float]:
        def loss(batch: Any, number: int) -> Metrics:
            key = key_for(self._experiment.evaluate.seed, number, "held out")
            return self._objective(params, batch, key, 0)[1]

        return dict(loss_by_time(loss, self._held_out.batches(self._tokenize)))

    def _request(self, prompts: list[HeldOutPrompt]) -> SampleRequest:
        return SampleRequest(
            [one.prompt for one in prompts],
            [one.fps for one in prompts],
            seed=self._experiment.evaluate.seed,
            clips=self._start(len(prompts)),
        )

    def _start(self, number: int) -> KnownFrames | None:
        if self._known is None or (clips := self._held_out.clips(number)) is None:
            return None
        return KnownFrames(clips, np.tile(self._known, (number, 1)))
