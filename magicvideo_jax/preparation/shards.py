"""Which clip goes into which shard of a data set, and which of its frames are taken.

All of it follows from the clip's name and the seed, so that any number of processes, at any time,
agree without talking.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.records import TRAIN, VALIDATION, shard_path
from magicvideo_jax.media.decoder_pool import DecodeJob
from magicvideo_jax.media.framing import LONGEST_SIDE, FrameSize
from magicvideo_jax.preparation.clip_listing import Entry

SMALLEST_SIDE = 8
"""Pixels."""


@dataclass(frozen=True)
class ClipSamplingConfig:
    """How a data set samples its clips. Its fields are `prepare`'s arguments of the same names."""

    frames: int = 16
    """Frames per stored clip."""
    sizes: tuple[FrameSize, ...] = ((64, 64),)
    """Target sizes (h, w); each clip uses the one with the nearest aspect ratio."""
    fps: tuple[float, float] = (1.0, 24.0)
    """Range of sampling frame rates."""
    seed: int = 0
    validation: float = 0.05
    """Fraction of clips held out for evaluation, chosen by a hash of the name."""
    per_shard: int = 256
    """Clips per file."""

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("per_shard", self.per_shard)):
            if value < 1:
                raise UserError(f"--{name}={value}: give at least 1")
        for height, width in self.sizes:
            if min(height, width) < SMALLEST_SIDE:
                raise UserError(
                    f"--size={width}x{height}: give at least {SMALLEST_SIDE} pixels a side"
                )
            if max(height, width) > LONGEST_SIDE:
                raise UserError(
                    f"--size={width}x{height}: give at most {LONGEST_SIDE} pixels a side"
                )
        if len(set(self.sizes)) < len(self.sizes):
            raise UserError("--size: the same size is given twice")
        if not 0 < self.fps[0] <= self.fps[1] < math.inf:
            raise UserError(
                f"--fps={self.fps[0]:g}-{self.fps[1]:g}: give the lower rate first, more than 0"
            )
        if self.seed < 0:
            raise UserError(f"--seed={self.seed}: give 0 or more")
        if not 0 <= self.validation < 1:
            raise UserError(
                f"--validation={self.validation}: give a fraction from 0 to less than 1"
            )


@dataclass(frozen=True)
class Shard:
    """Clips that are decoded together and stored in one file."""

    split: str
    number: int
    of: int
    entries: tuple[Entry, ...]

    def path(self, folder: Path) -> Path:
        return shard_path(folder, self.split, self.number, self.of)

    def report(self, folder: Path) -> Path:
        return folder / "shards" / f"{self.split}-{self.number:05d}.json"

    def is_done(self, folder: Path) -> bool:
        return self.path(folder).is_file() and self.report(folder).is_file()


def split_of(name: str, validation: float) -> str:
    """The split of a clip: the same for a name in every data set."""
    return VALIDATION if _hash(name, "split") / 2**64 < validation else TRAIN


def shards_of(entries: Sequence[Entry], sampling: ClipSamplingConfig) -> list[Shard]:
    """All shards of a data set; a split without clips has none."""
    shards = []
    for split in (TRAIN, VALIDATION):
        chosen = [entry for entry in entries if split_of(entry.name, sampling.validation) == split]
        size = sampling.per_shard
        parts = [tuple(chosen[i : i + size]) for i in range(0, len(chosen), size)]
        shards += [Shard(split, i, len(parts), part) for i, part in enumerate(parts)]
    return shards


def job_of(entry: Entry, sampling: ClipSamplingConfig) -> DecodeJob:
    """The decoding of a clip: which frames are taken follows from the seed and its name."""
    return DecodeJob(
        path=entry.path,
        seed=(sampling.seed, _hash(entry.name, "moments")),
        frames=sampling.frames,
        sizes=sampling.sizes,
        fps_range=sampling.fps,
    )


def _hash(name: str, purpose: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{name}".encode()).digest()[:8], "big")
