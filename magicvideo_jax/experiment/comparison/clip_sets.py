"""Sets of clips that are compared, read a few clips at a time: data sets and drawn scenes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Clip
from magicvideo_jax.data.drawn.shape_clips import Scene, draw_clip
from magicvideo_jax.data.record_examples import caption_of, frame_count, pixels_of
from magicvideo_jax.data.records import Record, Records, open_records, records_identity
from magicvideo_jax.evaluation.protocols import EvaluationProtocol, Window, protocol_fields
from magicvideo_jax.runtime.progress import Progress


class SomeClips(NamedTuple):
    """Clips of one size with their captions and frame rates."""

    pixels: UInt8[np.ndarray, "b t h w 3"]
    captions: list[str]
    fps: list[float]


@runtime_checkable
class ClipSet(Protocol):
    """Clips by number. Clip i is the same however many there are, so that features can be kept."""

    def __len__(self) -> int: ...

    def identity(self) -> Mapping[str, Any]:
        """What the clips depend on, as JSON: features that are kept belong to it."""
        ...

    def words(self) -> str:
        """What the set is, for the line beside a number."""
        ...

    def size(self) -> tuple[int, int]:
        """Height and width of the first clip."""
        ...

    def read(self, which: range) -> SomeClips:
        """Some clips. Errors: `UserError` naming one that cannot be read."""
        ...

    def captions(self, which: range) -> tuple[list[str], list[float]]:
        """Captions and frame rates of some clips."""
        ...


@dataclass(frozen=True)
class RecordClips:
    """Clips of a prepared data set, in a shuffled order; those that are too short are left out."""

    path: str
    split: str
    protocol: EvaluationProtocol
    seed: int
    argument: str

    def identity(self) -> Mapping[str, Any]:
        """The set, and which frames of it."""
        protocol = protocol_fields(self.protocol)
        return {
            "set": records_identity(self.path),
            "split": self.split,
            "seed": self.seed,
        } | {name: protocol[name] for name in ("frames", "stride", "window")}

    def __len__(self) -> int:
        return len(self._chosen[0])

    def words(self) -> str:
        """Name, number of clips, and those that were too short."""
        p = self.protocol
        return (
            f"{self.path}:{self.split}, {len(self._records)} clips, {p.window.value} window, "
            f"seed {self.seed}, {self._chosen[1]} too short"
        )

    def size(self) -> tuple[int, int]:
        """Height and width of the first clip."""
        return first_size(self)

    def read(self, which: range) -> SomeClips:
        """Windows of some clips."""
        records = [self._records[self._chosen[0][i]] for i in which]
        clips = [self._window(record, i) for record, i in zip(records, which, strict=True)]
        return SomeClips(stack_clips(clips, self.path), *self._captions(records, which))

    def captions(self, which: range) -> tuple[list[str], list[float]]:
        """A random caption of each clip, the same at every call."""
        return self._captions([self._records[self._chosen[0][i]] for i in which], which)

    def _captions(self, records: Sequence[Record], which: range) -> tuple[list[str], list[float]]:
        captions = [
            caption_of(record, self._rng(i, "caption"))
            for record, i in zip(records, which, strict=True)
        ]
        rates = [float(record.get("fps") or 0) / self.protocol.stride for record in records]
        return captions, rates

    def _window(self, record: Record, number: int) -> Clip:
        protocol, spare = self.protocol, frame_count(record) - self.protocol.span
        first = {
            Window.RANDOM: int(self._rng(number, "window").integers(spare + 1)),
            Window.FIRST: 0,
            Window.MIDDLE: spare // 2,
        }[protocol.window]
        return pixels_of(record, slice(first, first + protocol.span, protocol.stride))

    def _rng(self, number: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, *purpose.encode()])

    @cached_property
    def _records(self) -> Records:
        return open_records(self.path, self.split, argument=self.argument)

    @cached_property
    def _chosen(self) -> tuple[list[int], int]:
        """Indices of the clips that are compared, and the number of those that are too short for it."""
        order = np.random.default_rng(self.seed).permutation(len(self._records))
        chosen, short = [], 0
        wanted = min(len(order), self.protocol.clips)
        with Progress(wanted, "real clips", unit="clip") as progress:
            for index in order.tolist():
                if len(chosen) == wanted:
                    break
                record = self._records[index]
                if "latents" in record:
                    raise UserError(
                        f"{self.argument}={self.path}: a set of latents has no pixels to compare: "
                        "prepare one with --pixels"
                    )
                if frame_count(record) < self.protocol.span:
                    short += 1
                    continue
                chosen.append(index)
                progress.advance()
        if len(chosen) < 2:
            raise UserError(
                f"{self.argument}={self.path}: {len(chosen)} clips of {self.protocol.span} frames or "
                "more: give a set with longer clips, or fewer --frames"
            )
        return chosen, short


@dataclass(frozen=True)
class DrawnClips:
    """Held-out drawn scenes."""

    scenes: Sequence[Scene]
    protocol: EvaluationProtocol
    side: int
    seed: int

    def identity(self) -> Mapping[str, Any]:
        """What the scenes are drawn from, and the first of them."""
        said = [[scene.caption, scene.fps] for scene in self.scenes[:64]]
        names = {"frames": self.protocol.frames, "size": self.side, "seed": self.seed}
        return {"set": "drawn", "scenes": short_digest(said)} | names

    def words(self) -> str:
        """Name and seed."""
        return f"held-out drawn shapes, seed {self.seed}"

    def __len__(self) -> int:
        return len(self.scenes)

    def size(self) -> tuple[int, int]:
        """The side that they are drawn with, twice."""
        return self.side, self.side

    def read(self, which: range) -> SomeClips:
        """Drawn clips."""
        frames = self.protocol.frames
        drawn = [draw_clip(self.scenes[i], frames=frames, size=self.side).pixels for i in which]
        return SomeClips(np.stack(drawn), *self.captions(which))

    def captions(self, which: range) -> tuple[list[str], list[float]]:
        """Captions of the scenes."""
        scenes = [self.scenes[i] for i in which]
        return [scene.caption for scene in scenes], [float(scene.fps) for scene in scenes]


def first_size(clips: ClipSet) -> tuple[int, int]:
    """Height and width of the first clip of a set, which is read for it."""
    height, width = clips.read(range(1)).pixels.shape[2:4]
    return height, width


def stack_clips(clips: Sequence[Clip], where: str | Path) -> UInt8[np.ndarray, "b t h w 3"]:
    """Clips as one array. Errors: `UserError` beginning with `where` for clips of several sizes."""
    sizes = sorted({clip.shape for clip in clips})
    if len(sizes) > 1:
        first, other = (" x ".join(map(str, size[:3])) for size in sizes[:2])
        raise UserError(f"{where}: clips of {first} and of {other}: give clips of one size")
    return np.stack(clips)


def short_digest(content: Any) -> str:
    """A checksum of plain data."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
