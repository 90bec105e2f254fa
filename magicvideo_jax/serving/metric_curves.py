"""The metrics of a run that is still writing them: metrics.jsonl, read on from where the last reading ended."""

import json
import math
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

MOST_POINTS = 1024
"""Points of a curve; a longer one is averaged over neighbouring reports."""
MOST_METRICS = 100
_CHUNK = 2**20
_LONGEST_LINE = 2**20
"""Bytes that are read at once, and of a line; a longer line is passed over."""
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
        self._points: list[tuple[int, float, float, float, float]] = []
        """Number of reports, sum of steps, sum of values, lowest, highest."""

    def add(self, step: float, value: float) -> None:
        """Append a report."""
        points, new = self._points, (1, step, value, value, value)
        if points and points[-1][0] < self._reports_a_point:
            points[-1] = _together(points[-1], new)
            return
        if len(points) == MOST_POINTS:
            pairs = zip(points[::2], points[1::2], strict=True)
            self._points = points = [_together(one, next_one) for one, next_one in pairs]
            self._reports_a_point *= 2
        points.append(new)

    def curve(self) -> Curve:
        """The curve up to now."""
        count, steps, values, lows, highs = np.array(self._points, float).reshape(-1, 5).T
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
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._forget()
                self._inode = status.st_ino
                file.seek(self._offset)
                while self._read_chunk(file) and time.monotonic() < until:
                    pass
                self.unread = 1 - self._offset / max(status.st_size, self._offset, 1)
        except OSError:
            return

    def curves(self) -> dict[str, Curve]:
        """The curves up to now, by the names of their metrics."""
        return {name: growing.curve() for name, growing in self._curves.items()}

    def _forget(self) -> None:
        """Be as before the first reading."""
        self._inode, self._offset = -1, 0
        self._curves: dict[str, GrowingCurve] = {}
        self.recent: deque[dict[str, float]] = deque(maxlen=_RECENT)
        """The last lines, each with its `step`."""
        self.reports = 0
        """Lines that were read."""
        self.unread = 0.0
        """The share of the file that is still to be read."""

    def _read_chunk(self, file: BinaryIO) -> bool:
        """Read some whole lines; whether there were any."""
        chunk = file.read(_CHUNK)
        end = chunk.rfind(b"\n") + 1
        if not end and len(chunk) < _LONGEST_LINE:  # a line that is being written
            return False
        for line in chunk[:end].splitlines():
            self._add(line)
        self._offset += end or len(chunk)
        file.seek(self._offset)
        return True

    def _add(self, text: bytes) -> None:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(line, dict):
            return
        values = {name: float(value) for name, value in line.items() if _is_finite(value)}
        if "step" not in values:
            return
        self.reports += 1
        self.recent.append(values)
        step = values["step"]
        for name, value in values.items():
            if name in self._curves or (name != "step" and len(self._curves) < MOST_METRICS):
                self._curves.setdefault(name, GrowingCurve()).add(step, value)


def _together(
    one: tuple[int, float, float, float, float], other: tuple[int, float, float, float, float]
) -> tuple[int, float, float, float, float]:
    """Two points as one."""
    return (
        one[0] + other[0],
        one[1] + other[1],
        one[2] + other[2],
        min(one[3], other[3]),
        max(one[4], other[4]),
    )


def _is_finite(value: Any) -> bool:
    """Whether a value of JSON is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
