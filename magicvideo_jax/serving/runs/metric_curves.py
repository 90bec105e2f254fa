"""The metrics of a run that is still writing them: metrics.jsonl, read on from where the last reading ended."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

MOST_POINTS = 1024
"""Points of a curve; a longer one is averaged over neighbouring reports."""
MOST_METRICS = 100
_CHUNK = 2**20
"""Bytes that are read at once; a line that is longer is passed over."""
_HEAD = 256
"""Bytes by which a file is known again."""
_RECENT = 10


@dataclass(frozen=True)
class Curve:
    """A metric by step: the mean, the lowest and the highest value of the reports that a point stands for."""

    steps: Float[np.ndarray, "n"]
    means: Float[np.ndarray, "n"]
    lows: Float[np.ndarray, "n"]
    highs: Float[np.ndarray, "n"]


class GrowingCurve:
    """A curve in bounded memory: when it is full, neighbouring points become one."""

    def __init__(self) -> None:
        self._reports_a_point = 1
        self._points = np.zeros((0, 5))
        """Number of reports, sum of their steps, sum of their values, lowest, highest."""

    def extend(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """Append reports."""
        new = np.array([np.ones(len(steps)), steps, values, values, values]).T
        points = np.concatenate([self._points, new])
        while True:
            # The last point may still take reports; those before it are full.
            last = (np.cumsum(points[:, 0]) - 1) // self._reports_a_point
            starts = np.flatnonzero(np.diff(last, prepend=-1))
            sums = np.add.reduceat(points[:, :3], starts)
            lows = np.minimum.reduceat(points[:, 3:4], starts)
            highs = np.maximum.reduceat(points[:, 4:], starts)
            self._points = points = np.concatenate([sums, lows, highs], axis=1)
            if len(points) <= MOST_POINTS:
                return
            self._reports_a_point *= 2

    def curve(self) -> Curve:
        """The curve up to now."""
        count, steps, values, lows, highs = self._points.T
        return Curve(steps / count, values / count, lows, highs)


class MetricsReader:
    """metrics.jsonl as curves. Only what is new is read, and a file that was replaced is read anew."""

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def read_on(self, seconds: float) -> None:
        """Read what was added, for at most about `seconds`; `unread` says how much is left.

        A last line that is still being written waits for its end. Lines that are not JSON, and values that are
        not finite numbers, are passed over. A file that cannot be read leaves what was read before.
        """
        until = time.monotonic() + seconds
        try:
            with self.path.open("rb") as file:
                status, head = os.fstat(file.fileno()), file.read(_HEAD)
                # A resumed run replaces the file, and a new run in its folder may get its inode.
                is_same = status.st_ino == self._inode and head.startswith(self._head)
                if not is_same or status.st_size < self._offset:
                    self._forget()
                self._inode, self._head = status.st_ino, head
                file.seek(self._offset)
                has_more = True
                while has_more and time.monotonic() < until:
                    has_more = self._read_chunk(file)
                self.unread = max(1 - self._offset / status.st_size, 0) if has_more else 0.0
        except OSError:
            return

    def curves(self) -> dict[str, Curve]:
        """The curves up to now, by the names of their metrics."""
        return {name: growing.curve() for name, growing in self._curves.items()}

    def _forget(self) -> None:
        """Be as before the first reading."""
        self._inode, self._head, self._offset = -1, b"", 0
        self._curves: dict[str, GrowingCurve] = {}
        self.recent: deque[dict[str, float]] = deque(maxlen=_RECENT)
        """The last lines, each with its `step`."""
        self.reports = 0
        """Lines that were read."""
        self.unread = 0.0
        """The share of the file that is still to be read; a line that is being written does not count."""

    def _read_chunk(self, file: BinaryIO) -> bool:
        """Read some whole lines; whether there were any."""
        chunk = file.read(_CHUNK)
        end = chunk.rfind(b"\n") + 1
        if not end and len(chunk) < _CHUNK:  # a line that is being written
            return False
        self._add(chunk[:end].split(b"\n"))
        self._offset += end or len(chunk)
        file.seek(self._offset)
        return True

    def _add(self, texts: Sequence[bytes]) -> None:
        """Append the reports among some lines to the curves."""
        columns: dict[str, tuple[list[float], list[float]]] = {}
        for text in texts:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if not isinstance(line, dict):
                continue
            # Not so for NaN, true and false, and integers that no float can hold.
            numbers = {
                name: float(value)
                for name, value in line.items()
                if type(value) in (int, float) and abs(value) <= sys.float_info.max
            }
            if "step" not in numbers:
                continue
            self.reports += 1
            self.recent.append(numbers)
            step = numbers["step"]
            for name, value in numbers.items():
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
        for name, (steps, values) in columns.items():
            if name in self._curves or (name != "step" and len(self._curves) < MOST_METRICS):
                self._curves.setdefault(name, GrowingCurve()).extend(steps, values)
