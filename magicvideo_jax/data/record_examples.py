"""Records of a data set as training examples: some of a clip's frames, and one of its captions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.frame_choice import FrameChoice, choose_whole
from magicvideo_jax.data.loader import Example
from magicvideo_jax.data.records import from_png
from magicvideo_jax.data.tokenizer import Tokenize

CAPTIONS = ("captions", "caption", "text")
PIXELS = ("video", "image", "pixels")
"""Names of captions, and of uint8 frames (t h w 3) or one frame (h w 3), in TFDS data sets."""


@dataclass(frozen=True)
class FromRecord:
    """Makes an example of a record; draws the frames, the caption, and the latents of q(z | x).

    The example has `latents` float32 (t h w c) or `pixels` uint8 (t h w 3), and with a tokenizer
    `fps` and `ids`, or instead of ids `text` float32 (l d) and `is_captioned`. Errors: `UserError` that names
    the record, for a clip of fewer frames or a caption that the tokenizer refuses.
    """

    frames: int
    scaling: float
    """Factor by which the model scales its latents."""
    tokenizer: Tokenize | None = None
    reads_text: bool = False
    """Whether the record's precomputed text states replace the ids of its caption."""
    choice: FrameChoice = FrameChoice.PART
    """Which of more frames an example has."""

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> Example:
        count = frame_count(record)
        if count < self.frames:
            raise UserError(
                f"{_label(record)}: a clip of {count} frames: give config.data.frames={count}, or "
                "leave it out of the set"
            )
        if self.choice is FrameChoice.PART:
            which = sub_range(count, self.frames, rng)
            stride = float(which.step)
        else:
            which = choose_whole(self.choice, count, self.frames, rng)
            stride = (count - 1) / max(self.frames - 1, 1)
        example: dict[str, Any] = {}
        if "latents" in record:
            mean, log_variance = np.split(record["latents"][which].astype(np.float32), 2, axis=-1)
            drawn = mean + np.exp(0.5 * log_variance) * rng.standard_normal(mean.shape, np.float32)
            example["latents"] = drawn * np.float32(self.scaling)
        else:
            example["pixels"] = pixels_of(record, which)
        if self.tokenizer is not None:
            example |= (
                self._states(record, rng) if self.reads_text else {"ids": self._ids(record, rng)}
            )
            example["fps"] = np.float32(record.get("fps", 0.0)) / np.float32(stride or 1)
        return example

    def _ids(self, record: Mapping[str, Any], rng: np.random.Generator) -> Int32[np.ndarray, "l"]:
        assert self.tokenizer is not None
        try:
            return self.tokenizer([caption_of(record, rng)])[0]
        except UserError as error:  # a caption that is no class
            raise UserError(f"{_label(record)}: {error}") from error

    def _states(self, record: Mapping[str, Any], rng: np.random.Generator) -> Example:
        """Text states; an unlabelled clip has zeros, which the objective replaces."""
        states = np.asarray(record["text_states"], np.float32)
        chosen = (
            states[rng.integers(len(states))]
            if len(states)
            else np.zeros(states.shape[1:], np.float32)
        )
        return {"text": chosen, "is_captioned": np.bool_(len(states) > 0)}


def sub_range(count: int, frames: int, rng: np.random.Generator) -> slice:
    """Random slice of `frames` evenly spaced frames of `count`: the rate may only become lower."""
    stride = int(rng.integers(1, (count - 1) // (frames - 1) + 1)) if frames > 1 else 1
    first = int(rng.integers(count - (frames - 1) * stride))
    return slice(first, first + (frames - 1) * stride + 1, stride)


def frame_count(record: Mapping[str, Any]) -> int:
    """Number of frames of a clip; 1 for a picture."""
    if "latents" in record:
        return len(record["latents"])
    if "frames" in record:
        return len(record["frames"])
    pixels = _pixels(record)
    return len(pixels) if pixels.ndim == 4 else 1


def pixels_of(record: Mapping[str, Any], which: slice | Int[np.ndarray, "t"]) -> np.ndarray:
    """Frames of a record as uint8 (t h w 3)."""
    if "frames" in record:
        files = record["frames"]
        return from_png([files[i] for i in np.arange(len(files))[which]])
    pixels = _pixels(record)
    return (pixels if pixels.ndim == 4 else pixels[None])[which]


def captions_of(record: Mapping[str, Any]) -> list[str]:
    """All captions of a record; an empty list for an unlabelled clip."""
    found = next((record[name] for name in CAPTIONS if name in record), [])
    several = [found] if isinstance(found, str | bytes) else list(found)
    return [text.decode() if isinstance(text, bytes) else str(text) for text in several]


def caption_of(record: Mapping[str, Any], rng: np.random.Generator) -> str:
    """A random caption of a record; the empty prompt for an unlabelled clip."""
    captions = captions_of(record)
    return captions[rng.integers(len(captions))] if captions else ""


def _label(record: Mapping[str, Any]) -> str:
    """Words for a record in messages: its name, where it has one."""
    name = record.get("name", b"")
    return f"record {name.decode() if isinstance(name, bytes) else name}".rstrip()


def _pixels(record: Mapping[str, Any]) -> np.ndarray:
    for name in PIXELS:
        if name in record:
            return np.asarray(record[name])
    raise UserError(
        f"a record has {', '.join(record)}: need latents, frames, or uint8 pixels as "
        f"{', '.join(PIXELS)}"
    )
