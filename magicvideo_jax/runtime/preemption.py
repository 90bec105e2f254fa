"""SIGTERM: this machine is wanted for something else. A cloud that takes it back says so, and a cluster at a job's end.

A process that is alone and has nothing to lose leaves at once, even out of the middle of XLA's compiler. While it has
steps in hand, and always where several hosts must leave together, it is asked between steps.
"""

import multiprocessing
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

EXIT_PREEMPTED = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on."""

_SAID = "stopped by SIGTERM"


class Preempted(Exception):
    """The job leaves, and what is worth saving is saved. The message is one line."""

    def __init__(self, saved: str):
        super().__init__(f"{_SAID}: {saved}; the same command goes on (exit code {EXIT_PREEMPTED})")


class PreemptionListener:
    """Whether SIGTERM has come to any host. One that does not `listen` is never interrupted."""

    def __init__(self):
        self._came, self._turn = threading.Event(), threading.RLock()
        self._in_hand = False
        self._questions: deque[Any] = deque()

    def listen(self) -> None:
        """From now on, for the life of the process. To be called in its main thread."""
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        # Python calls a handler between two steps of its main thread, and a compiler has none for minutes. The byte
        # that is written for each signal comes at once, unless an event loop has it written elsewhere.
        signal.signal(signal.SIGTERM, lambda *_: self._come())
        signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="interrupt", daemon=True).start()

    def _watch(self, signals: socket.socket) -> None:
        with signals:
            while came := signals.recv(64):
                if signal.SIGTERM in came:
                    self._come()

    def _come(self) -> None:
        with self._turn:
            self._came.set()
            if self._in_hand or processes.process_count() > 1:
                return
            for child in multiprocessing.active_children():
                child.kill()
            os.write(sys.stderr.fileno(), f"{Preempted('there was nothing to save')}\n".encode())
            os._exit(EXIT_PREEMPTED)

    @contextmanager
    def steps_in_hand(self) -> Iterator[None]:
        """What is done inside is worth saving: nobody leaves but who asks. Errors: `Preempted` at the end, where all
        that was done is to be saved, if SIGTERM came meanwhile."""
        with self._turn:
            self._in_hand = True
        yield
        with self._turn:
            self._in_hand = False
            came = self._came.is_set()
        if came if processes.process_count() == 1 else processes.any_process_async(came).item():
            raise Preempted("all steps are saved")

    def asked(self) -> bool:
        """Whether to leave now: to be called before each step, by every host, and all get the same answer. Of several
        hosts it is that to the question of two steps ago, which the devices know by now: nobody waits for it."""
        if processes.process_count() == 1:
            return self._came.is_set()
        self._questions.append(processes.any_process_async(self._came.is_set()))
        return len(self._questions) > 2 and bool(self._questions.popleft().item())
