"""What a run is looked at and scored with, and never learned from: the same for every run on the same data.

Of drawn shapes, combinations and wordings that training leaves out; else the validation split of the first source.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.data.drawn.shape_clips import (
    Scene,
    draw_clip,
    draw_image,
    held_out_image_scenes,
    held_out_scenes,
)
from magicvideo_jax.data.loader import Example, Source
from magicvideo_jax.data.record_examples import FromRecord, caption_of, frame_count, pixels_of
from magicvideo_jax.data.records import VALIDATION
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Experiment
from magicvideo_jax.experiment.recorded import open_dataset
from magicvideo_jax.experiment.streams import example, frames_of


@dataclass(frozen=True)
class HeldOutPrompt:
    """A caption, the rate of its clip, and of a drawn one what is in it."""

    prompt: str
    fps: float
    scene: Scene | None = None


def held_out_prompts(experiment: Experiment, number: int) -> list[HeldOutPrompt]:
    """Captions to sample; fewer where the validation split has fewer clips."""
    if not is_drawn(experiment):
        records = _validation(experiment)
        some = [records[i] for i in range(min(number, len(records)))]
        return [
            HeldOutPrompt(caption_of(record, np.random.default_rng(i)), record["fps"])
            for i, record in enumerate(some)
        ]
    video = experiment.stage.has_clips
    return [
        HeldOutPrompt(scene.caption if video else scene.image_caption, scene.fps, scene)
        for scene in _scenes(experiment, number)
    ]


def held_out_images_of(experiment: Experiment, number: int) -> UInt8[np.ndarray, "n 1 h w 3"]:
    """Single frames, for auto-encoders."""
    if is_drawn(experiment):
        return np.stack(
            [
                draw_image(scene, size=experiment.data.size).pixels
                for scene in _scenes(experiment, number)
            ]
        )
    records = _validation(experiment)
    some = (records[i] for i in range(min(number, len(records))))
    return np.stack(
        [
            pixels_of(record, slice(i % frame_count(record), None, None))[:1]
            for i, record in enumerate(some)
        ]
    )


def held_out_batches(experiment: Experiment, tokenizer: Tokenize | None) -> Iterator[Example]:
    """`evaluate.clips` examples, `evaluate.batch_size` a batch; the last batch begins them again."""
    number, at_once = experiment.evaluate.clips, experiment.evaluate.batch_size
    examples = itertools.cycle(_examples(experiment, tokenizer, number))
    for _ in range(-(-number // at_once)):
        batch = list(itertools.islice(examples, at_once))
        yield {name: np.stack([one[name] for one in batch]) for name in batch[0]}


def is_drawn(experiment: Experiment) -> bool:
    """Whether what is seen can be read back."""
    return experiment.data.sources[0].path == DRAWN


def _examples(experiment: Experiment, tokenizer: Tokenize | None, number: int) -> Iterator[Example]:
    frames, size = frames_of(experiment), experiment.data.size
    if is_drawn(experiment):
        for scene in _scenes(experiment, number):
            drawn = (
                draw_image(scene, size=size)
                if not experiment.stage.has_clips
                else draw_clip(scene, frames=frames, size=size)
            )
            yield example(drawn, tokenizer=tokenizer)
        return
    records, prepare = (
        _validation(experiment),
        FromRecord(frames, experiment.model.vae.scaling, tokenizer),
    )
    for i in range(min(number, len(records))):
        yield prepare(records[i], np.random.default_rng(i))


def _scenes(experiment: Experiment, number: int) -> list[Scene]:
    return (
        held_out_scenes(0, number)
        if experiment.stage.has_clips
        else held_out_image_scenes(0, number)
    )


def _validation(experiment: Experiment) -> Source:
    """Of several sizes, the commonest: a program is compiled for one."""
    source = replace(experiment.data.sources[0], split=VALIDATION)
    sizes = open_dataset(
        source, experiment, None, frames=frames_of(experiment), argument="config.data.sources"
    )
    return max(sizes, key=len)
