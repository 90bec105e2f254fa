"""Clips on their way through a cascade: whole, or in parts of a few frames that are there one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, eq=False)
class SampledClips:
    """Clips of one request."""

    clips: UInt8[np.ndarray, "b t h w 3"]
    fps: float
    notes: tuple[str, ...] = ()
    """What to say of the request: a prompt whose end is cut."""

    def stream(self) -> "ClipStream":
        """The same in one part."""
        return ClipStream(iter([self.clips]), self.clips.shape[:4], self.fps, self.notes)


@dataclass(frozen=True, eq=False)
class ClipStream:
    """Clips of one request whose frames are made while they are read, and read once.

    A part holds the next few frames of all clips. Memory is that of one part if whoever reads lets go of each
    (`del part`) before asking for the next.
    """

    parts: Iterator[UInt8[np.ndarray, "b k h w 3"]]
    shape: tuple[int, ...]
    """Number of clips, and of all their frames, height and width."""
    fps: float
    notes: tuple[str, ...] = ()

    def read(self) -> None:
        """Read all parts and keep none: for what is written on its way."""
        for part in self.parts:
            del part

    def whole(self) -> SampledClips:
        """All frames at once."""
        return SampledClips(np.concatenate([*self.parts], axis=1), self.fps, self.notes)
