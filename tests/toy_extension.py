"""A stage, a metric and a weight format that the package does not have, as somebody else would add them."""

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.evaluation.metrics import METRICS, MetricInput
from magicvideo_jax.experiment.networks import PIPELINE
from magicvideo_jax.experiment.stages.prompt_evaluator import PromptEvaluator
from magicvideo_jax.experiment.stages.registry import STAGES
from magicvideo_jax.experiment.stages.stage import Stage
from magicvideo_jax.experiment.stages.text_to_video import unet_objective


class Standing(Stage):
    """Text to clips that stand still: every frame of an example is its first frame."""

    name = "standing"
    reads_captions = True
    default_metrics = ("restlessness",)

    def components(self, experiment):
        return PIPELINE

    def objective(self, experiment, networks, tokenize):
        denoising = unet_objective(experiment, networks, tokenize)

        def objective(params, batch, key, step, /):
            pixels = jnp.broadcast_to(batch["pixels"][:, :1], batch["pixels"].shape)
            return denoising(params, {**batch, "pixels": pixels}, key, step)

        return objective

    def evaluator(self, experiment, networks, tokenize, held_out):
        return PromptEvaluator(
            experiment,
            networks,
            tokenize,
            held_out,
            objective=self.objective(experiment, networks, tokenize),
            default_metrics=self.default_metrics,
        )


def restlessness(measured: MetricInput) -> float:
    """How far frames are from the first one, in levels of 255."""
    samples = measured.samples.astype(np.float32)
    return float(np.abs(samples - samples[:, :1]).mean())


STAGES[Standing.name] = Standing()
METRICS["restlessness"] = restlessness
