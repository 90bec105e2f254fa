"""The outcome of each stage, and the scores of a work folder: what `evaluate` prints."""

from collections.abc import Iterator
from dataclasses import replace

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import CaptionTokenizer, Tokenize
from magicvideo_jax.experiment.config import Experiment, TrainingStage
from magicvideo_jax.experiment.decoders import VideoVAEEvaluator
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import Evaluator, Scores
from magicvideo_jax.experiment.reconstructions import ImageVAEEvaluator
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.samples import TextToVideoEvaluator
from magicvideo_jax.runtime.compilation import enable_compilation_cache


def evaluator_of(
    experiment: Experiment, networks: Networks, tokenize: Tokenize | None
) -> Evaluator:
    """That of the stage."""
    if experiment.stage is TrainingStage.VAE:
        return ImageVAEEvaluator(experiment, networks)
    if experiment.stage is TrainingStage.VIDEO_VAE:
        return VideoVAEEvaluator(experiment, networks)
    if tokenize is None:
        raise ValueError(f"stage {experiment.stage.value} needs a tokenizer")
    return TextToVideoEvaluator(experiment, networks, tokenize)


def evaluate_run(folder: RunFolder, *, clips: int | None = None) -> Scores:
    """The scores of a work folder's newest checkpoint."""
    enable_compilation_cache()
    experiment = folder.experiment()
    if clips is not None:
        if clips < 1:
            raise UserError(f"--clips={clips}: give at least 1")
        experiment = replace(experiment, evaluate=replace(experiment.evaluate, clips=clips))
    networks = Networks(experiment.model)
    params = trained_params(folder, networks, experiment)
    tokenize = None
    if experiment.stage.has_text:
        tokenize = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    return evaluator_of(experiment, networks, tokenize).metrics(params)


def metrics_table(scores: Scores) -> Iterator[str]:
    """Lines for a person."""
    for name, value in scores.items():
        if isinstance(value, dict):
            yield name
            yield from (f"  {part:<16} {number:8.3f}" for part, number in value.items())
        else:
            yield f"{name:<14} {value:8.3f}"
