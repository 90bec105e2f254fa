"""The page's end of the process that samples: started when it is needed, replaced when it ended.

Sampling runs in a process of its own, so that whatever happens to it (out of memory, a killed
process) costs one request, and the page goes on and says what happened.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.serving.model_facts import ModelFacts

Answer = Mapping[str, Any]

_ENDS = ("refused", "cancelled", "failed", "compiled", "ended")
"""Keys of the last answer to a job."""


class SamplingFailed(Exception):
    """The process could not do its job, or ended; the message says it to whoever asked."""


class SamplerProcess:
    """One process that does one job after the other, for all tabs of the page. A context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Answer]]] = {}

    def __enter__(self) -> "SamplerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def process_id(self) -> int | None:
        """Number of the process; None where none runs."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    async def describe(self, model: ModelRequest) -> ModelFacts:
        """The facts of a model, which is loaded for it. Errors: `UserError`, `SamplingFailed`."""
        job = {"kind": "describe", "model": to_plain(model)}
        *_, result = [answer async for answer in self.answers(job)]
        return from_plain(ModelFacts, result["facts"], "facts")

    def prepare(self, model: ModelRequest) -> None:
        """Load a model and compile its usual program, so that the first person waits less; nobody waits for it."""
        self._send({"job": next(self._numbers), "kind": "prepare", "model": to_plain(model)})

    async def answers(self, job: Mapping[str, Any]) -> AsyncGenerator[Answer, None]:
        """Answers to a job (`sampler_worker.py`): its progress, then its result.

        Closing the generator cancels the job. Errors: `UserError` for what the job asks;
        `SamplingFailed`; `asyncio.CancelledError` for a job that was cancelled.
        """
        number, queue = next(self._numbers), asyncio.Queue[Answer]()
        self._waiting[number] = asyncio.get_running_loop(), queue
        is_over = False
        try:
            self._send({"job": number, **job})
            while not is_over:
                answer = await queue.get()
                is_over = any(key in answer for key in _ENDS)
                _raise_failure(answer)
                yield answer
        finally:
            del self._waiting[number]
            if not is_over:
                with contextlib.suppress(OSError, SamplingFailed):
                    self._send({"cancel": number}, starts=False)

    def _send(self, message: Mapping[str, Any], *, starts: bool = True) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                if not starts:
                    return
                self._process = self._start()
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                raise SamplingFailed(_END_WORDS.format(how="ended")) from error

    def _start(self) -> "subprocess.Popen[str]":
        # The process must find this package wherever this one found it.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, "-m", "magicvideo_jax.serving.sampler_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,  # Ctrl-C is for the page, whose end it follows
        )
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        """Hand answers to those who wait for them, until the process ends."""
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # a last line that was cut off
                answer = json.loads(line)
                self._hand(answer["job"], answer)
        code = process.wait()
        for number in list(self._waiting):
            self._hand(number, {"ended": code})

    def _hand(self, number: int, answer: Answer) -> None:
        if (waiting := self._waiting.get(number)) is not None:
            loop, queue = waiting
            with contextlib.suppress(RuntimeError):  # its loop is closed: the server ends
                loop.call_soon_threadsafe(queue.put_nowait, answer)


_END_WORDS = "The process that samples {how}. The next request starts a new one: try again."


def _raise_failure(answer: Answer) -> None:
    if "refused" in answer:
        raise UserError(answer["refused"])
    if "cancelled" in answer:
        raise asyncio.CancelledError
    if "failed" in answer:
        raise SamplingFailed(f"Sampling failed: {answer['failed']}. The log of `serve` says more.")
    if "ended" in answer:
        raise SamplingFailed(_END_WORDS.format(how=_how_it_ended(answer["ended"])))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    memory = ", which the system does where memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{memory}"
