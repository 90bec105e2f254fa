"""Metrics of trained weights on held-out data: what `evaluate` computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.evaluation.metrics import Scores
from magicvideo_jax.experiment.held_out import open_held_out
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_weights
from magicvideo_jax.experiment.pipeline import checked_tokenizer, loaded_params, usual_experiment
from magicvideo_jax.experiment.stages.registry import check_stage, stage_of
from magicvideo_jax.runtime.compilation import enable_compilation_cache
from magicvideo_jax.sampling.keyframes import SampleConfig


def evaluate_weights(
    weights: str | Path,
    *,
    clips: int | None = None,
    metrics: tuple[str, ...] = (),
    seed: int | None = None,
    sampled_as: Callable[[SampleConfig], SampleConfig] = lambda usual: usual,
) -> Scores:
    """The metrics of a work folder (averaged weights, on the held-out data of its config), or of
    weights in any known form of a model of prompts (on held-out drawn shapes).

    `clips`, `metrics` and `seed` replace those of `config.evaluate`; `sampled_as` gives other settings
    in place of the usual ones. Errors: `UserError`, also
    where the data has no validation split to evaluate on.
    """
    enable_compilation_cache()
    name = str(weights)
    initial = initial_weights(name, argument="--workdir")
    experiment = initial.experiment or usual_experiment(name, initial)
    usual = experiment.evaluate
    with named("--"):
        evaluate = replace(
            usual,
            clips=usual.clips if clips is None else clips,
            metrics=metrics or usual.metrics,
            seed=usual.seed if seed is None else seed,
        )
    sample = sampled_as(experiment.sample)
    experiment = replace(experiment, evaluate=evaluate, sample=sample)
    check_stage(experiment)

    stage = stage_of(experiment)
    held_out = open_held_out(experiment, stage.held_out_frames(experiment))
    if held_out is None:
        raise UserError(
            f"{name}: its data set {experiment.data.sources[0].path} has no validation split "
            "to evaluate on: prepare one with --validation above 0"
        )
    tokenize = stage.class_names(experiment)
    if stage.reads_captions:
        tokenize = checked_tokenizer(initial, experiment, name)
    networks = Networks(experiment.model)
    evaluator = stage.evaluator(experiment, networks, tokenize, held_out)
    return evaluator.metrics(loaded_params(initial, networks))
