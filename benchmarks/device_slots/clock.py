"""Time of programs that run while Python goes on."""

import time
from collections.abc import Callable
from typing import Any

import jax


def best_seconds(
    run: Callable[..., Any], *arguments: Any, calls: int = 10, rounds: int = 5
) -> float:
    """Seconds of a call: the fastest round of several calls one after the other, after two to warm up."""
    jax.block_until_ready([run(*arguments) for _ in range(2)])
    return min(_seconds(run, arguments, calls) for _ in range(rounds))


def _seconds(run: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> float:
    began = time.perf_counter()
    result = None
    for _ in range(calls):
        result = run(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / calls
