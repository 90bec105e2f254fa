"""Two ways to the same end, timed in turn: on a shared machine only their ratio in one process says something."""

import time
from collections.abc import Callable
from typing import Any


def side_by_side(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    names: tuple[str, str],
    rounds: int,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """Each once to warm up, then A B A B: seconds of every round by name, and the ratio of the fastest.

    `cpu_time` counts the process's CPU seconds: with one thread those are of a machine without others.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    ours(), theirs()
    times = [(seconds(ours, clock), seconds(theirs, clock)) for _ in range(rounds)]
    columns = list(zip(*times, strict=True))
    found: dict[str, Any] = {
        f"{name}_seconds": [round(one, 3) for one in column]
        for name, column in zip(names, columns, strict=True)
    }
    return found | {"ratio": round(min(columns[0]) / min(columns[1]), 3)}


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run."""
    began = clock()
    run()
    return clock() - began
