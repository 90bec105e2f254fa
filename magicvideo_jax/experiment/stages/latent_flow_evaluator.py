"""Evaluation of auto-encoders of flow: held-out clips, made of their first frames."""

import jax
import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.pixels import from_unit, to_unit
from magicvideo_jax.core.types import Params
from magicvideo_jax.evaluation.metrics import MetricInput, Scores, measure
from magicvideo_jax.experiment.animation.flow_networks import FlowNetworks
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.stage import PreviewRows
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit

FRAMES, WARPED = "made of the first frame", "the first frame, warped"
PREVIEWED = 3
"""Clips of a preview, each in three rows: the source, and both of the auto-encoder's."""


class LatentFlowEvaluator:
    """An `Evaluator` of frames as the auto-encoder makes them, and of the warped first frame alone."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        held_out: HeldOut,
        metrics: tuple[str, ...],
    ):
        flow = FlowNetworks(networks)

        @jit
        def reconstruct(params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
            clips = to_unit(pixels)
            made, warped = flow.decode(params, clips[:, 0], flow.flow_latents(params, clips))
            return from_unit(made), from_unit(warped)

        self._experiment, self._held_out, self._metrics = experiment, held_out, metrics
        self._reconstruct = reconstruct

    def preview(self, params: Params) -> PreviewRows:
        """Rows for each clip: the source, and both reconstructions."""
        source = next(self._held_out.batches(None))["pixels"]
        made, warped = map(fetch_to_host, self._reconstruct(params, source))
        rows = (("source", source), (FRAMES, made), (WARPED, warped))
        prompts = self._held_out.prompts(min(len(source), PREVIEWED))
        return [
            (f"{name}: {one.prompt}", clips[i])
            for i, one in enumerate(prompts)
            for name, clips in rows
        ]

    def metrics(self, params: Params) -> Scores:
        """The named metrics of both."""
        number = self._experiment.evaluate.clips
        source = [batch["pixels"] for batch in self._held_out.batches(None)]
        both = [tuple(map(fetch_to_host, self._reconstruct(params, one))) for one in source]
        prompts = self._held_out.prompts(number)
        truths = [one.scene.truth for one in prompts if one.scene is not None] or None
        clips = np.concatenate(source)[: len(prompts)]
        return {
            name: _flat(measure(self._metrics, MetricInput(made, clips, truths)))
            for name, made in (
                ("prediction", _joined([one for one, _ in both], len(prompts))),
                ("deformed", _joined([one for _, one in both], len(prompts))),
            )
        }


def _joined(
    batches: list[UInt8[np.ndarray, "b t h w 3"]], number: int
) -> UInt8[np.ndarray, "n t h w 3"]:
    return np.concatenate(batches)[:number]


def _flat(scores: Scores) -> dict[str, float]:
    """Metrics of several numbers as one for each."""
    flat: dict[str, float] = {}
    for name, value in scores.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
