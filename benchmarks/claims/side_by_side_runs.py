"""Processes side by side, each on cores of its own: small arrays use two cores badly, two runs use them well."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Task:
    """A command, and the file that its output is appended to."""

    name: str
    command: Sequence[str]
    log: Path


def shares_of_cores(jobs: int) -> list[tuple[int, ...]]:
    """The cores of this process in `jobs` shares, as equal as can be; with more jobs than cores some share one."""
    cores = sorted(os.sched_getaffinity(0))
    return [tuple(cores[i::jobs]) or (cores[i % len(cores)],) for i in range(jobs)]


def run_side_by_side(
    tasks: Sequence[Task], *, jobs: int, say: Callable[[str], None], folder: Path
) -> list[Task]:
    """Run all tasks in their order, `jobs` at once, from `folder`. Returns those that failed.

    A task that fails is reported, and the others go on. SIGTERM and Ctrl-C end all tasks before this process.
    """
    waiting, failed, done = list(tasks), [], 0
    free = shares_of_cores(jobs)
    running: list[_Running] = []
    with _sigterm_as_exit(), _ended(running):
        while waiting or running:
            while waiting and free:
                task = waiting.pop(0)
                running.append(_Running(task, free.pop(0), folder))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.cores)
                done += 1
                code = one.process.returncode
                if code:
                    failed.append(one.task)
                result = f"failed with code {code}: {one.task.log}" if code else "done"
                say(f"{one.task.name}: {result}, {one.seconds:.0f} s ({done} of {len(tasks)})")
    return failed


class _Running:
    def __init__(self, task: Task, cores: tuple[int, ...], folder: Path):
        self.task, self.cores, self._began = task, cores, time.monotonic()
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                task.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder
            )
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(self.process.pid, cores)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


@contextmanager
def _ended(running: list[_Running]) -> Iterator[None]:
    """End whatever still runs when the block ends; training saves its steps first."""
    try:
        yield
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
