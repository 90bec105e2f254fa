"""The drawn shapes as an experiment's data: examples for the loader, captions to be scored on, prompts to preview."""

from functools import partial
from typing import Any

import numpy as np

from magicvideo_jax.data.loader import Example, Loader
from magicvideo_jax.data.shapes import (
    Clip,
    Scene,
    ShapeClips,
    ShapeImages,
    held_out,
    held_out_images,
)
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import DataConfig, Experiment, Stage


def example(clip: Clip, tokenizer: CaptionTokenizer | None) -> Example:
    """What a stage learns from: a VAE from pixels alone, the others from ids too."""
    pixels: dict[str, np.ndarray] = {"pixels": clip.pixels}
    if tokenizer is None:
        return pixels
    return pixels | {"ids": tokenizer([clip.caption])[0], "fps": np.float32(clip.fps)}


def make_loader(experiment: Experiment, tokenizer: CaptionTokenizer | None, mesh: Any) -> Loader:
    """Batches for the stage."""
    data, seed, batch = experiment.data, experiment.seed, experiment.train.batch_size
    if experiment.stage is Stage.VIDEO:
        source = ShapeClips(seed, frames=data.frames, size=data.size)
    else:
        source = ShapeImages(seed, size=data.size)
    prepare = partial(example, tokenizer=tokenizer)
    return Loader(source, prepare=prepare, batch_size=batch, seed=seed, mesh=mesh)


def unseen_scenes(stage: Stage, number: int) -> list[Scene]:
    """Held-out captions, the same for every run."""
    return held_out(0, number) if stage is Stage.VIDEO else held_out_images(0, number)


def prompt_of(scene: Scene, stage: Stage) -> str:
    """A scene's caption in the words of the stage."""
    return scene.caption if stage is Stage.VIDEO else scene.image_caption


def frames_of(stage: Stage, data: DataConfig) -> int:
    """Frames that the stage's clips have."""
    return data.frames if stage is Stage.VIDEO else 1
