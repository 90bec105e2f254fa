"""Decoding in processes of its own: a file that hangs or crashes its decoder costs a time-out, not the run.

A worker is `python -m magicvideo_jax.media.decoder_pool`: jobs come as JSON lines on its standard
input; each answer is a JSON line and then the bytes of the frames. It ends with its parent, and its
memory is limited to what clips need.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.frame_reader import FrameSize, choose_frames, read_frames, timeline

_MEMORY = 8 * 2**30
"""Bytes of address space of a worker."""
_AHEAD = 4
"""Clips that each worker may be ahead of the one that is waited for."""


@dataclass(frozen=True)
class DecodeJob:
    """A clip to be looked at."""

    path: Path
    seed: tuple[int, ...]
    """Of the draw of its frames."""
    frames: int
    sizes: tuple[FrameSize, ...]
    """To choose from by the clip's proportions."""
    fps_range: tuple[float, float]


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """What was to be seen, and its frames per second."""

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float

    @property
    def size(self) -> FrameSize:
        return self.frames.shape[1:3]


@dataclass(frozen=True)
class SkippedClip:
    """Why a clip cannot be used: the same words on every machine."""

    reason: str


class DecoderPool:
    """A context manager of processes, each killed and replaced when a clip takes longer than `timeout` seconds."""

    def __init__(self, workers: int, *, timeout: float = 60.0):
        self._workers = [_Worker(timeout) for _ in range(workers)]

    def __enter__(self) -> "DecoderPool":
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(len(self._workers))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown(cancel_futures=True)

    def clips(self, jobs: Sequence[DecodeJob]) -> Iterator[DecodedClip | SkippedClip]:
        """An answer to every job, in their order."""
        running: deque[Future[DecodedClip | SkippedClip]] = deque()
        for job in jobs:
            running.append(self._threads.submit(self._answer, job))
            if len(running) > _AHEAD * len(self._workers):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _answer(self, job: DecodeJob) -> DecodedClip | SkippedClip:
        worker = self._free.get()
        try:
            return worker.answer(job)
        finally:
            self._free.put(worker)


class _Worker:
    """The parent's end of a process, which starts with its first job."""

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, job: DecodeJob) -> DecodedClip | SkippedClip:
        if self._process is None:
            self._process = _start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(
                json.dumps({**vars(job), "path": str(job.path)}).encode() + b"\n"
            )
            self._process.stdin.flush()
            deadline = time.monotonic() + self._timeout
            found = json.loads(self._line(deadline))
            if "reason" in found:
                return SkippedClip(found["reason"])
            shape = (job.frames, *job.sizes[found["size"]], 3)
            return DecodedClip(self._array(shape, deadline), found["fps"])
        except TimeoutError:
            self.stop()
            return SkippedClip(f"takes longer than {self._timeout:g} s to decode")
        except (OSError, EOFError, json.JSONDecodeError, IndexError):
            self.stop()
            return SkippedClip("crashes its decoder")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _line(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)
        return bytes(line)

    def _array(self, shape: tuple[int, ...], deadline: float) -> np.ndarray:
        out = np.empty(shape, np.uint8)
        view, done = out.reshape(-1).data, 0
        while done < len(view):
            piece = self._read(len(view) - done, deadline)
            view[done : done + len(piece)] = piece
            done += len(piece)
        return out

    def _read(self, most: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(pipe, most)
        if not piece:
            raise EOFError
        return piece


def _start() -> "subprocess.Popen[bytes]":
    """Finds this package wherever the parent found it."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "magicvideo_jax.media.decoder_pool", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders complain there about every damaged byte
        bufsize=0,
        # One arena: of many, each decoding thread leaves its own scattered, and memory grows with the clips seen.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MALLOC_ARENA_MAX": "1",
        },
    )


def decode(job: DecodeJob) -> DecodedClip | SkippedClip:
    """In this process. Everything that a file can make a decoder raise is a refusal."""
    try:
        shown = timeline(job.path)
        rng = np.random.default_rng(job.seed)
        which, fps = choose_frames(shown, rng, frames=job.frames, fps_range=job.fps_range)
        return DecodedClip(read_frames(job.path, shown, which, job.sizes), fps)
    except UserError as error:
        return SkippedClip(str(error))
    except FileNotFoundError:
        return SkippedClip("is not there any more")
    except MemoryError:
        return SkippedClip("needs too much memory")
    except Exception as error:
        return SkippedClip(f"cannot be decoded ({type(error).__name__})")


def _serve(parent: int) -> None:
    """The worker's life."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing but answers may come that way
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _limit_memory()
    for line in sys.stdin.buffer:
        asked: dict[str, Any] = json.loads(line)
        sizes = tuple((height, width) for height, width in asked["sizes"])
        job = DecodeJob(
            **{**asked, "path": Path(asked["path"]), "seed": tuple(asked["seed"]), "sizes": sizes}
        )
        found = decode(job)
        if isinstance(found, SkippedClip):
            answers.write(json.dumps({"reason": found.reason}).encode() + b"\n")
        else:
            size = sizes.index(found.size)
            answers.write(json.dumps({"fps": found.fps, "size": size}).encode() + b"\n")
            answers.write(np.ascontiguousarray(found.frames).data)
        answers.flush()


def _end_with(parent: int) -> None:
    """However the parent ends, and whatever a decoder is at."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on every system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
