"""Two ways to the same end, timed in turn: on a shared machine only their ratio in one process says something."""

import time
from collections.abc import Callable
from typing import Any


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], *, names: tuple[str, str], rounds: int
) -> dict[str, Any]:
    """Each once to warm up, then A B A B: seconds of every round by name, and the ratio of the fastest."""
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    columns = list(zip(*times, strict=True))
    found: dict[str, Any] = {
        f"{name}_seconds": [round(time, 3) for time in column]
        for name, column in zip(names, columns, strict=True)
    }
    return found | {"ratio": round(min(columns[0]) / min(columns[1]), 3)}


def seconds(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
