"""Evaluation of models that animate pictures: held-out clips, sampled from their first frames."""

import numpy as np

from magicvideo_jax.core.types import KnownFrames, Params
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.stages.stage import PreviewRows

PREVIEWED_PICTURES = 6
"""Clips of a preview, each in two rows: the sample, and the true clip."""


class PictureEvaluator:
    """An `Evaluator` of clips conditional on their first frame and their class."""

    def __init__(
        self,
        experiment: Experiment,
        animator: Generator,
        held_out: HeldOut,
        metrics: tuple[str, ...],
    ):
        self._experiment, self._animator = experiment, animator
        self._held_out, self._metrics = held_out, metrics

    def preview(self, params: Params) -> PreviewRows:
        """A sample and the true clip of each of some held-out scenes."""
        request, truth = self._request(PREVIEWED_PICTURES)
        samples = self._animator.generate(params, request, label="preview")
        return [
            row
            for prompt, sample, true in zip(request.prompts, samples, truth, strict=True)
            for row in ((f"{prompt}, from the first frame", sample), (f"{prompt}, the truth", true))
        ]

    def metrics(self, params: Params) -> Scores:
        """The named metrics over `evaluate.clips` held-out scenes."""
        number = self._experiment.evaluate.clips
        request, truth = self._request(number)
        samples = self._animator.generate(params, request, label="evaluate")
        scenes = [one.scene for one in self._held_out.prompts(number)]
        truths = [scene.truth for scene in scenes if scene is not None]
        measured = MetricInput(samples, reference=truth, truths=truths or None)
        return {"clips": float(len(samples))} | measure(self._metrics, measured)

    def _request(self, number: int) -> tuple[SampleRequest, np.ndarray]:
        """A request to animate first frames, and the true clips."""
        prompts, clips = self._held_out.prompts(number), self._held_out.clips(number)
        assert clips is not None  # a set of latents was refused
        known = np.zeros(clips.shape[:2], bool)
        known[:, 0] = True
        request = SampleRequest(
            [one.prompt for one in prompts],
            [one.fps for one in prompts],
            seed=self._experiment.evaluate.seed,
            clips=KnownFrames(clips, known),
        )
        return request, clips
