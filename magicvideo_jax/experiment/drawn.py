"""The drawn shapes as an experiment's data: examples for the loader, captions to be scored on, prompts to preview."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from magicvideo_jax.data.loader import Example, Source
from magicvideo_jax.data.shapes import (
    Clip,
    Scene,
    ShapeClips,
    ShapeImages,
    clip_of,
    held_out,
    held_out_images,
    image_of,
)
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import DataConfig, Experiment, Stage


@dataclass(frozen=True)
class Beside:
    """Joint training's examples: a clip and a picture at each place."""

    video: Source
    image: Source

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, index: int) -> dict[str, Clip]:
        return {"video": self.video[index], "image": self.image[index]}


def example(drawn: Clip | Mapping[str, Clip], tokenizer: CaptionTokenizer | None) -> Example:
    """What a stage learns from: a VAE from pixels alone, the others from ids too."""
    if isinstance(drawn, Mapping):
        return {name: example(part, tokenizer) for name, part in drawn.items()}
    pixels: dict[str, np.ndarray] = {"pixels": drawn.pixels}
    if tokenizer is None:
        return pixels
    return pixels | {"ids": tokenizer([drawn.caption])[0], "fps": np.float32(drawn.fps)}


def make_source(experiment: Experiment) -> Source:
    """What the stage learns from, drawn when it is asked for."""
    data, seed = experiment.data, experiment.seed
    pictures = ShapeImages(seed, size=data.size)
    if experiment.stage is not Stage.VIDEO:
        return pictures
    clips = ShapeClips(seed, frames=data.frames, size=data.size, unlabelled=data.unlabelled)
    return Beside(clips, pictures) if data.with_pictures else clips


def unseen_batches(experiment: Experiment, tokenizer: CaptionTokenizer) -> Iterator[Example]:
    """The held-out scenes themselves, `evaluate.at_once` a batch; the last batch begins the scenes again."""
    data, at_once = experiment.data, experiment.evaluate.at_once
    scenes = itertools.cycle(unseen_scenes(experiment.stage, experiment.evaluate.clips))
    for _ in range(-(-experiment.evaluate.clips // at_once)):
        drawn = [
            clip_of(scene, frames=data.frames, size=data.size)
            if experiment.stage is Stage.VIDEO
            else image_of(scene, size=data.size)
            for scene in itertools.islice(scenes, at_once)
        ]
        examples = [example(clip, tokenizer) for clip in drawn]
        yield {name: np.stack([one[name] for one in examples]) for name in examples[0]}


def unseen_scenes(stage: Stage, number: int) -> list[Scene]:
    """Held-out captions, the same for every run."""
    return held_out(0, number) if stage is Stage.VIDEO else held_out_images(0, number)


def prompt_of(scene: Scene, stage: Stage) -> str:
    """A scene's caption in the words of the stage."""
    return scene.caption if stage is Stage.VIDEO else scene.image_caption


def frames_of(stage: Stage, data: DataConfig) -> int:
    """Frames that the stage's clips have."""
    return data.frames if stage is Stage.VIDEO else 1
