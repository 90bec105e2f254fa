"""SIGTERM: the machine is taken back (a cloud's spot node) or the job's time is up (a cluster).

A process without unsaved steps ends at once, even in the middle of XLA's compiler, and with it its
job. While there are unsaved steps the training loop asks between steps, and all processes leave at
the same step.
"""

import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.job_end import end_at_once

EXIT_PREEMPTED = 75
"""Exit code: stopped, everything saved, run the same command again (EX_TEMPFAIL of sysexits.h)."""


class Preempted(Exception):
    """The job stops for SIGTERM, everything worth saving saved. The message is one line."""

    def __init__(self, saved: str):
        super().__init__(
            f"stopped by SIGTERM: {saved}; the same command goes on (exit code {EXIT_PREEMPTED})"
        )


class PreemptionListener:
    """Whether SIGTERM has come to any process of the job; never, before `listen` is called."""

    def __init__(self):
        self._came, self._turn = threading.Event(), threading.RLock()
        self._protects = False
        self._answers: deque[Any] = deque()

    def listen(self) -> None:
        """Handle SIGTERM for the life of the process. Call it in the main thread.

        SIGTERM then no longer ends the process while steps are unsaved: the loop must poll
        `requested`.
        """
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        # Python calls a handler between two steps of its main thread, and a compiler has none for
        # minutes. The byte that is written for each signal comes at once, unless an event loop has
        # it written elsewhere.
        signal.signal(signal.SIGTERM, lambda *_: self._come())
        signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
        threading.Thread(
            target=self._watch, args=(reading,), name="preemption", daemon=True
        ).start()

    def _watch(self, signals: socket.socket) -> None:
        with signals:
            while came := signals.recv(64):
                if signal.SIGTERM in came:
                    self._come()

    def _come(self) -> None:
        with self._turn:
            self._came.set()
            if self._protects:
                return
            os.write(sys.stderr.fileno(), f"{Preempted('there was nothing to save')}\n".encode())
            end_at_once(EXIT_PREEMPTED)

    @contextmanager
    def protect_unsaved_steps(self) -> Iterator[None]:
        """A block whose work is worth saving: SIGTERM does not end the process inside it.

        Errors: `Preempted` at the end of the block, where everything must be saved, if SIGTERM
        came to any process.
        """
        with self._turn:
            self._protects = True
        yield
        with self._turn:
            self._protects = False
            came = self._came.is_set()
        if processes.process_count() > 1:
            came = _answer(processes.any_process_async(came))
        if came:
            raise Preempted("all steps are saved")

    def requested(self) -> bool:
        """Whether to stop now. Every process must call it before each step.

        All get the same answer. Of several processes it is the one computed two steps earlier, so
        no step waits for it.
        """
        if processes.process_count() == 1:
            return self._came.is_set()
        self._answers.append(processes.any_process_async(self._came.is_set()))
        return len(self._answers) > 2 and _answer(self._answers.popleft())


def _answer(array: Any) -> bool:
    """The value of `any_process_async`, fetched explicitly: the loop forbids implicit transfers."""
    import jax

    return bool(jax.device_get(array))
