"""Models described for the page: their usual settings, and prompts from the data that they learned."""

from pathlib import Path

import numpy as np

from magicvideo_jax.data.drawn.scene import Colour, Motion, Shape
from magicvideo_jax.data.drawn.wording import MOTIONS
from magicvideo_jax.experiment.config import DRAWN, Experiment
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.serving.model_facts import ModelFacts
from magicvideo_jax.weights.locate import EMBEDDED

_EXAMPLES = 6
_PROMPTS = (
    "a corgi running on the beach, golden hour",
    "a sailing boat on a calm sea at sunset",
    "a red balloon rising over a snowy forest",
    "close-up of coffee being poured into a cup",
)


def facts_of(pipe: Pipeline, request: ModelRequest) -> ModelFacts:
    """The facts of a loaded model."""
    experiment = pipe.experiment
    stage, sample, temporal = (
        stage_of(experiment),
        experiment.sample,
        experiment.model.unet.temporal,
    )
    moves = not stage.trains_single_images
    drawn = request.workdir in EMBEDDED or _draws(experiment, request.workdir)
    return ModelFacts(
        frames=stage.frames(experiment),
        most_frames=None if temporal is None else temporal.max_frames,
        size=sample.size or (experiment.data.size,) * 2,
        fps=sample.fps,
        steps=sample.steps,
        guidance=sample.guidance,
        sampler=sample.sampler.value,
        moves=moves,
        takes_motion=temporal is None,
        prompts=drawn_prompts(moves=moves) if drawn else _PROMPTS,
    )


def drawn_prompts(*, moves: bool) -> tuple[str, ...]:
    """Captions of drawn scenes, the same at every start."""
    rng = np.random.default_rng(4)
    shapes, colours = rng.permutation([*Shape])[:_EXAMPLES], rng.permutation([*Colour])
    motions = (
        Motion.LEFT,
        Motion.BOUNCING,
        Motion.CIRCLING,
        Motion.GROWING,
        Motion.UP,
        Motion.TURNING,
    )
    return tuple(
        f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"
        + (f" {MOTIONS[motion][0][0]}" if moves else "")
        for shape, colour, motion in zip(shapes, colours, motions, strict=False)
    )


def _draws(experiment: Experiment, workdir: str) -> bool:
    """Whether this is a run that was trained on drawn scenes: weights from elsewhere name no data."""
    is_run = (Path(workdir).expanduser() / "config.json").is_file()
    return is_run and any(source.path == DRAWN for source in experiment.data.sources)
