"""How the processes of a job end: together, with one exit code.

A process that fails tells the others, and all end within seconds with its exit code. Without that,
those that wait for it in a collective would notice at JAX's heartbeat time-out, and end with
SIGABRT. A process that is done waits for the others however long they take; JAX's own wait at exit
gives up after five minutes and kills both sides.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from magicvideo_jax.core.errors import EXIT_USER_ERROR, UserError

EXIT_BUG, EXIT_INTERRUPTED = 1, 130

_FAILED, _END = "magicvideo_jax/failed", "magicvideo_jax/end"
"""A key and a barrier of JAX's coordination service."""
_POLL = 1.0
"""Seconds between two looks at whether another process has failed."""
_GRACE = 3.0
"""Seconds that a failed process stays after it has reported its failure."""
_FOREVER = 2**31 - 1
"""Milliseconds: 24 days."""


class _Job:
    client: Any = None
    """JAX's client of the coordination service; None in a process that is alone."""
    index = 0
    has_ended = threading.Event()
    watcher: threading.Thread | None = None


def share_failures(index: int) -> None:
    """Make this process end when another one fails, and the others when this one does.

    A thread that fails counts, too. Call it once, after `jax.distributed.initialize`; `index` is
    the index of this process.
    """
    # Private to JAX; Orbax takes the client from there, too.
    from jax._src.distributed import global_state

    _Job.client, _Job.index = global_state.client, index
    _Job.watcher = threading.Thread(target=_watch, name="job_end", daemon=True)
    _Job.watcher.start()
    sys.excepthook = lambda _type, error, _trace: end_at_once(report(error))
    threading.excepthook = _end_after_thread


def report(error: BaseException, *, interrupted: str = "interrupted") -> int:
    """Print what ended a process to stderr, and return its exit code.

    A `UserError` is one line and code 2, Ctrl-C the line `interrupted` and code 130, anything else
    a traceback and 1.
    """
    if isinstance(error, UserError):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    if isinstance(error, KeyboardInterrupt):
        print(interrupted, file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    traceback.print_exception(error, file=sys.stderr)
    return EXIT_BUG


def end_together() -> None:
    """Wait until every process of the job is done, however late it is."""
    if _Job.client is None or _Job.has_ended.is_set():
        return
    _Job.client.wait_at_barrier(_END, _FOREVER)
    # A thread inside of JAX's client while the interpreter ends would crash the process.
    _Job.has_ended.set()
    if _Job.watcher is not None:
        _Job.watcher.join()


def end_at_once(code: int) -> NoReturn:
    """End this process without JAX's wait for the others, and make them end with the same code."""
    try:
        if _Job.client is not None and not _Job.has_ended.is_set():
            # In a thread: where the service is gone, the call returns late.
            threading.Thread(target=_tell_others, args=(code,), daemon=True).start()
            _stay()
    finally:
        _leave(code)


def _tell_others(code: int) -> None:
    with contextlib.suppress(RuntimeError):  # another process failed first, or the service is gone
        _Job.client.key_value_set(_FAILED, json.dumps({"process": _Job.index, "code": code}))


def _watch() -> None:
    """Poll for the failure of another process, beside a main thread that may be blocked."""
    while not _Job.has_ended.wait(_POLL):
        try:
            failed = json.loads(_Job.client.key_value_try_get(_FAILED))
        except RuntimeError:
            continue  # no one has failed, or the service is gone: JAX's heartbeat notices that
        if failed["process"] != _Job.index:
            print(
                f"process {failed['process']} of this job ended with exit code {failed['code']}: "
                f"see its log; process {_Job.index} ends, too",
                file=sys.stderr,
            )
            if _Job.index == 0:
                _stay()
            _leave(failed["code"])


def _stay() -> None:
    """Wait until the others have seen the failure.

    Process 0 is the last to end: its coordination service ends with it, and JAX then kills every
    process that is still connected.
    """
    time.sleep(_GRACE + (_POLL if _Job.index == 0 else 0))


def _end_after_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        end_at_once(report(failed.exc_value))


def _leave(code: int) -> NoReturn:
    """End without the interpreter's clean-up, which threads of libraries and JAX would hold up.

    Nothing is flushed: the main thread may hold the stream's lock while it waits for this one.
    """
    try:
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(code)
