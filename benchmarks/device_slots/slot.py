"""A slot: one thing to measure, in a process of its own, and the JSON lines that it prints."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

Line = dict[str, Any]

READY: Line = {"ready": True}
"""Line of a slot that has compiled its programs. What it does after its turn has the device to itself."""


class Size(Enum):
    """Size of what is measured."""

    FULL = "full"
    TINY = "tiny"
    """A rehearsal on CPU: the same programs of networks with a few thousand parameters."""


@dataclass(frozen=True)
class Slot:
    """What is measured, and when."""

    name: str
    about: str
    measure: Callable[[Size], Iterator[Line]]
    """Yields lines; where `prepares`, `READY` first."""
    seconds: float
    """Most seconds from its turn to its end."""
    prepares: bool = True
    """Whether it compiles beside the others before its turn."""
    after: str | None = None
    """Slot whose end it waits for before it starts, because it finds that one's programs in the cache."""
    xla_flags: str = ""
    needs: tuple[str, ...] = ()
    """Modules without which it is left out."""


def run_in_this_process(slot: Slot, size: Size) -> None:
    """Print the lines of a slot; after `READY`, wait for a line on standard input."""
    for line in slot.measure(size):
        print(json.dumps(line), flush=True)
        if line == READY:
            sys.stdin.readline()


class Lines:
    """JSON lines to standard output, and to a file if there is one, flushed one by one."""

    def __init__(self, file: Path | None):
        self.written: list[Line] = []
        self._file = None if file is None else file.open("a")
        self._lock = threading.Lock()

    def write(self, line: Line) -> None:
        """Write a line; safe from several threads."""
        with self._lock:
            self.written.append(line)
            for out in (sys.stdout, self._file):
                if out is not None:
                    print(json.dumps(line), file=out, flush=True)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
