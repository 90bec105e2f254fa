"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere. Of several hosts one
speaks."""

import sys
import time

from tqdm import tqdm

from magicvideo_jax.runtime import processes

_SECONDS_BETWEEN_LINES = 15.0


def say(line: str) -> None:
    """To stderr, like all talk about work; results go to stdout. Of several hosts one speaks."""
    if processes.is_leader():
        print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts towards a total. Use it as a context manager; call `advance` after each piece of work."""

    def __init__(self, total: int, what: str, *, unit: str = "it", start: int = 0):
        self._total, self._what, self._unit, self._done, self._start = (
            total,
            what,
            unit,
            start,
            start,
        )
        self._began = self._said = time.monotonic()
        self._bar, self._speaks = None, processes.is_leader()
        if self._speaks and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=what, unit=unit, initial=start, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._speaks and self._done > self._start:
            self._say()

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """`pieces` more are done; `note` stands behind the count."""
        self._done += pieces
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(pieces)
        elif self._speaks and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._say(note)

    def _say(self, note: str = "") -> None:
        self._said = time.monotonic()
        rate = (self._done - self._start) / max(self._said - self._began, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        line = f"{self._what} {self._done}/{self._total}  {rate:.3g} {self._unit}/s  {left:.0f} s left  {note}"
        print(line.rstrip(), file=sys.stderr, flush=True)
