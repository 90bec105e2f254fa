"""Evaluation of upscalers: held-out clips are shrunk, enlarged again, and compared with what they were."""

from functools import partial

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.bicubic import enlarge, shrink
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params, SmallClips
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.stage import PreviewRows
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.frame_noise import FrameNoise
from magicvideo_jax.sampling.keyframes import SampleConfig

UPSCALER, BICUBIC = "upscaler", "bicubic"
COMPARED_CLIPS = 2
"""Clips of a preview, each in three rows: bicubic, the upscaler's, the source."""

Pixels = UInt8[np.ndarray, "n t h w 3"]


def small_clips(pixels: Pixels, sample: SampleConfig) -> SmallClips:
    """Clips as a request to enlarge them has them, with the noise that these settings add to them."""
    number = len(pixels)
    return SmallClips(
        pixels,
        np.full(number, sample.picture_noise, np.int32),
        np.full(number, sample.frame_noise is FrameNoise.SHARED),
    )


class SuperResolutionEvaluator:
    """An `Evaluator` of the large clips that a network makes of small ones, beside bicubic resizing."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize,
        held_out: HeldOut,
        metrics: tuple[str, ...],
    ):
        factor = experiment.model.vae.factor
        self._experiment, self._held_out, self._metrics = experiment, held_out, metrics
        self._shrink, self._enlarge = (jit(partial(f, factor=factor)) for f in (shrink, enlarge))
        self._generator = Generator(
            experiment, networks, tokenize, frames=held_out.frames, starts=networks.start
        )

    def preview(self, params: Params) -> PreviewRows:
        """Rows for each clip: enlarged both ways, and the source."""
        source = self._source(COMPARED_CLIPS)
        rows = {**self._enlarged(params, source, label="preview"), "source": source}
        prompts = self._held_out.prompts(len(source))
        return [
            (f"{name}: {one.prompt}", clips[i])
            for i, one in enumerate(prompts)
            for name, clips in rows.items()
        ]

    def metrics(self, params: Params) -> Scores:
        """The named metrics for each of both ways."""
        source = self._source(self._experiment.evaluate.clips)
        scores: Scores = {"clips": float(len(source))}
        for name, clips in self._enlarged(params, source, label="evaluate").items():
            measured = measure(self._metrics, MetricInput(clips, reference=source))
            scores[name] = {
                metric: value for metric, value in measured.items() if isinstance(value, float)
            }
        return scores

    def _source(self, number: int) -> Pixels:
        clips = self._held_out.clips(number)
        if clips is None:
            raise UserError(
                "config.data.sources: a set of latents: super-resolution is measured on pixels: run "
                "prepare with --pixels"
            )
        return clips

    def _enlarged(self, params: Params, source: Pixels, *, label: str) -> dict[str, Pixels]:
        small = np.stack([np.asarray(self._shrink(clip)) for clip in source])
        prompts = self._held_out.prompts(len(source))
        request = SampleRequest(
            [one.prompt for one in prompts],
            [one.fps for one in prompts],
            seed=self._experiment.evaluate.seed,
            clips=small_clips(small, self._experiment.sample),
        )
        return {
            BICUBIC: np.stack([np.asarray(self._enlarge(clip)) for clip in small]),
            UPSCALER: self._generator.generate(params, request, label=label),
        }
