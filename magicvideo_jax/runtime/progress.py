"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere.

In a job of several processes only the leader prints. What counts while something else counts has no bar of its own:
its count stands behind that of the other, as that of the batches of a stage.
"""

import sys
import time

from tqdm import tqdm

from magicvideo_jax.runtime import processes

_SECONDS_BETWEEN_LINES = 15.0
_counting: list["Progress"] = []
"""The one that is shown, of those whose blocks have begun."""


def say(line: str) -> None:
    """Print a line about the work to stderr (results go to stdout); the leader only."""
    if processes.is_leader():
        print(line, file=sys.stderr, flush=True)


class Progress:
    """A context manager that counts towards a total; call `advance` after each piece of work."""

    def __init__(self, total: int, what: str, *, unit: str = "it", start: int = 0):
        self._total, self._what, self._unit = total, what, unit
        self._done = self._start = start
        self._began = self._printed = time.monotonic()
        self._bar, self._prints = None, False

    def __enter__(self) -> "Progress":
        self._prints = processes.is_leader() and not _counting
        if self._prints:
            _counting.append(self)
            if sys.stderr.isatty():
                self._bar = tqdm(
                    total=self._total,
                    desc=self._what,
                    unit=self._unit,
                    initial=self._start,
                    dynamic_ncols=True,
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._prints:
            _counting.remove(self)
        if self._bar is not None:
            self._bar.close()
        elif self._prints and self._done > self._start:
            self._print()

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """Count `pieces` more as done; `note` stands behind the count."""
        self._done += pieces
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(pieces)
        elif self._prints and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._print(note)
        elif not self._prints and _counting:
            _counting[0].advance(0, f"{self._done}/{self._total} {self._unit}")

    def _print(self, note: str = "") -> None:
        self._printed = time.monotonic()
        line = f"{self._what} {self._done}/{self._total}"
        if self._done > self._start:
            rate = (self._done - self._start) / max(self._printed - self._began, 1e-9)
            left = (self._total - self._done) / rate
            line += f"  {rate:.3g} {self._unit}/s  {left:.0f} s left"
        print(f"{line}  {note}".rstrip(), file=sys.stderr, flush=True)
