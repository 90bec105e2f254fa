"""The outcome of each stage, and the scores of a work folder: what `evaluate` prints."""

from collections.abc import Iterator
from dataclasses import replace

from magicvideo_jax.core.compilation import keep_compiled
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import CaptionTokenizer, Tokenize
from magicvideo_jax.experiment.config import Experiment, Stage
from magicvideo_jax.experiment.decoders import Decoders
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.outcome import Outcome, Scores
from magicvideo_jax.experiment.reconstructions import Reconstructions
from magicvideo_jax.experiment.samples import Samples
from magicvideo_jax.experiment.workfolder import WorkFolder, trained_params


def outcome_of(experiment: Experiment, networks: Networks, tokenize: Tokenize | None) -> Outcome:
    """That of the stage."""
    if experiment.stage is Stage.VAE:
        return Reconstructions(experiment, networks)
    if experiment.stage is Stage.VIDEO_VAE:
        return Decoders(experiment, networks)
    if tokenize is None:
        raise ValueError(f"stage {experiment.stage.value} needs a tokenizer")
    return Samples(experiment, networks, tokenize)


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
    tokenize = None
    if experiment.stage.has_text:
        tokenize = CaptionTokenizer(folder.tokenizer, length=experiment.model.text.tokens)
    return outcome_of(experiment, networks, tokenize).scores(params)


def table(scores: Scores) -> Iterator[str]:
    """Lines for a person."""
    for name, value in scores.items():
        if isinstance(value, dict):
            yield name
            yield from (f"  {part:<16} {number:8.3f}" for part, number in value.items())
        else:
            yield f"{name:<14} {value:8.3f}"
