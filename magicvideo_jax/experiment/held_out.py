"""Held-out data: what a run is previewed and measured with and never trained on, the same for every run on a data set.

For drawn shapes these are combinations and wordings that training leaves out; otherwise it is the `validation` split of
the first data set.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from magicvideo_jax.data.drawn.scene import DEFAULT_FPS
from magicvideo_jax.data.drawn.shape_clips import (
    DrawnClip,
    Scene,
    draw_clip,
    draw_image,
    held_out_image_scenes,
    held_out_scenes,
)
from magicvideo_jax.data.frame_choice import FrameChoice, choose_whole
from magicvideo_jax.data.loader import Example, Source
from magicvideo_jax.data.record_examples import FromRecord, caption_of, frame_count, pixels_of
from magicvideo_jax.data.records import VALIDATION, splits_of
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Experiment
from magicvideo_jax.experiment.datasets import example, open_dataset
from magicvideo_jax.runtime.progress import say


@dataclass(frozen=True)
class HeldOutPrompt:
    """A caption, the frame rate of its clip, and the scene if it is a drawn one."""

    prompt: str
    fps: float
    scene: Scene | None = None


class HeldOut:
    """Held-out examples of `frames` frames, built by `open_held_out`."""

    def __init__(self, experiment: Experiment, frames: int, records: Source | None):
        """`records` are the validation split, None for drawn shapes."""
        self.frames, self.batch_size = frames, experiment.evaluate.batch_size
        self._experiment, self._records = experiment, records

    @property
    def fps(self) -> float:
        """The frame rate of the first example, at which previews are shown."""
        return float(self.prompts(1)[0].fps)

    def prompts(self, number: int) -> list[HeldOutPrompt]:
        """The first `number` captions, or as many as there are."""
        if self._records is None:
            return [
                HeldOutPrompt(
                    scene.caption if self.frames > 1 else scene.image_caption, scene.fps, scene
                )
                for scene in self._scenes(number)
            ]
        records = (self._records[i] for i in range(min(number, len(self._records))))
        return [
            HeldOutPrompt(
                caption_of(record, np.random.default_rng(i)),
                float(record.get("fps") or DEFAULT_FPS),
            )
            for i, record in enumerate(records)
        ]

    def clips(self, number: int) -> UInt8[np.ndarray, "n t h w 3"] | None:
        """The clips of the first captions; None for a set of latents, which has no pixels."""
        if self._records is None:
            return np.stack([self._draw(scene).pixels for scene in self._scenes(number)])
        records = [self._records[i] for i in range(min(number, len(self._records)))]
        if "latents" in records[0]:
            return None
        return np.stack([pixels_of(record, self._frames_of(record)) for record in records])

    def images(self, number: int) -> UInt8[np.ndarray, "n 1 h w 3"]:
        """Single frames, one of each of the first clips."""
        if self._records is None:
            return np.stack([self._draw(scene).pixels for scene in self._scenes(number)])
        records = (self._records[i] for i in range(min(number, len(self._records))))
        return np.stack(
            [
                pixels_of(record, slice(i % frame_count(record), None, None))[:1]
                for i, record in enumerate(records)
            ]
        )

    def batches(self, tokenize: Tokenize | None) -> Iterator[Example]:
        """`evaluate.clips` examples in batches of `evaluate.batch_size`, the last filled up with the first ones."""
        examples = itertools.cycle(self._examples(tokenize))
        for _ in range(-(-self._experiment.evaluate.clips // self.batch_size)):
            batch = list(itertools.islice(examples, self.batch_size))
            yield {name: np.stack([one[name] for one in batch]) for name in batch[0]}

    def _examples(self, tokenize: Tokenize | None) -> Iterator[Example]:
        number = self._experiment.evaluate.clips
        if self._records is None:
            for scene in self._scenes(number):
                yield example(self._draw(scene), tokenizer=tokenize)
            return
        choice = self._experiment.data.frame_choice
        prepare = FromRecord(
            self.frames, self._experiment.model.vae.scaling, tokenize, choice=choice
        )
        for i in range(min(number, len(self._records))):
            yield prepare(self._records[i], np.random.default_rng(i))

    def _frames_of(self, record: Any) -> slice | Int[np.ndarray, "t"]:
        """The first frames of a record, or even ones of all where training chooses among all."""
        if self._experiment.data.frame_choice is FrameChoice.PART:
            return slice(0, self.frames)
        rng = np.random.default_rng(0)
        return choose_whole(FrameChoice.UNIFORM, frame_count(record), self.frames, rng)

    def _draw(self, scene: Scene) -> DrawnClip:
        size = self._experiment.data.size
        if self.frames == 1:
            return draw_image(scene, size=size)
        return draw_clip(scene, frames=self.frames, size=size)

    def _scenes(self, number: int) -> list[Scene]:
        seed, data = self._experiment.evaluate.seed, self._experiment.data
        if self.frames == 1:
            return held_out_image_scenes(seed, number)
        scenes = held_out_scenes(seed, number, data.motions)
        if data.motion_captions:
            scenes = [replace(scene, caption=scene.truth.motion.value) for scene in scenes]
        return [
            replace(scene, fps=(data.fps or scene.fps) * data.frame_rate_ratio) for scene in scenes
        ]


def open_held_out(experiment: Experiment, frames: int) -> HeldOut | None:
    """The held-out data of an experiment; None, with a line that says so, for a set without a validation split.

    Errors: `UserError` for a validation split that does not fit the model.
    """
    source = experiment.data.sources[0]
    if source.path == DRAWN:
        return HeldOut(experiment, frames, None)
    argument = "config.data.sources"
    if VALIDATION not in splits_of(source.path, argument=argument):
        say(f"{source.path} has no split {VALIDATION}: this run has no previews and no metrics")
        return None
    validation = replace(source, split=VALIDATION)
    sizes = open_dataset(validation, experiment, None, frames=frames, argument=argument)
    # A program is compiled for one size: the most frequent one.
    return HeldOut(experiment, frames, max(sizes, key=len))
