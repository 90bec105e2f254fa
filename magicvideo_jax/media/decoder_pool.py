"""Decoding in separate processes: a file that hangs or crashes its decoder costs only itself.

A worker is `python -m magicvideo_jax.media.decoder_pool`: jobs come as JSON lines on its standard
input; each answer is a JSON line and then the bytes of the frames. It ends with its parent, and its
memory is limited to what clips need.
"""

import json
import os
import selectors
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
from magicvideo_jax.media.frame_reader import frame_size, read_frames, read_timeline
from magicvideo_jax.media.framing import FrameSize, check_frame_size
from magicvideo_jax.media.timeline import ClipPart, choose_frames

_MEMORY = 8 * 2**30
"""Bytes of address space of a worker."""
_AHEAD = 4
"""Clips that each worker may decode before the oldest answer is collected."""


@dataclass(frozen=True)
class DecodeJob:
    """A clip to decode, and which frames of it."""

    path: Path
    seed: tuple[int, ...]
    """Seed of the random choice of frames."""
    frames: int
    sizes: tuple[FrameSize, ...]
    """Target sizes; the clip gets the one with the nearest aspect ratio, or keeps its own where there is none."""
    fps_range: tuple[float, float] | None
    """Frame rates to choose from; None: every frame."""
    part: ClipPart = ClipPart.ANY


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """The chosen frames, and their rate in frames per second."""

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float

    @property
    def size(self) -> FrameSize:
        return self.frames.shape[1:3]


@dataclass(frozen=True)
class SkippedClip:
    """The reason why a clip cannot be used, in the same words on every machine."""

    reason: str


class DecoderPool:
    """Worker processes, as a context manager.

    A worker that needs more than `timeout` seconds for a clip, or dies of it, is replaced; leaving
    the block ends all of them, also by an exception.
    """

    def __init__(self, workers: int, *, timeout: float = 60.0):
        self._workers = [_Worker(timeout) for _ in range(workers)]

    def __enter__(self) -> "DecoderPool":
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(len(self._workers))
        return self

    def __exit__(self, *_: object) -> None:
        # The queue first: a waiting job would start a new process in the place of a killed one.
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.stop()

    def clips(self, jobs: Sequence[DecodeJob]) -> Iterator[DecodedClip | SkippedClip]:
        """One answer per job, in the order of the jobs."""
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
    """The parent's end of one process, which starts with its first job."""

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def answer(self, job: DecodeJob) -> DecodedClip | SkippedClip:
        if self._closed:
            return SkippedClip("was not decoded: the pool is closed")
        if self._process is None:
            self._process = _start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(
                json.dumps({**vars(job), "path": str(job.path)}).encode() + b"\n"
            )
            self._process.stdin.flush()
            with _TimedPipe(self._process.stdout.fileno(), self._timeout) as pipe:
                answer = json.loads(pipe.line())
                if "reason" in answer:
                    return SkippedClip(answer["reason"])
                height, width = answer["size"]
                check_frame_size(height, width)
                return DecodedClip(pipe.array((job.frames, height, width, 3)), answer["fps"])
        except TimeoutError:
            self.stop()
            return SkippedClip(f"takes longer than {self._timeout:g} s to decode")
        except (OSError, EOFError, json.JSONDecodeError, IndexError):
            self.stop()
            return SkippedClip("the decoder process crashed on this file")

    def kill(self) -> None:
        """End the process from any thread; the thread that waits for its answer sees it end."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """End the process and release what it held."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class _TimedPipe:
    """Reads from a pipe until a deadline. `selectors`: `select` refuses descriptors above 1023."""

    def __init__(self, pipe: int, timeout: float):
        self._pipe, self._deadline = pipe, time.monotonic() + timeout
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> "_TimedPipe":
        self._ready.register(self._pipe, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.close()

    def line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1)
        return bytes(line)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape, np.uint8)
        view, done = out.reshape(-1).data, 0
        while done < len(view):
            piece = self._read(len(view) - done)
            view[done : done + len(piece)] = piece
            done += len(piece)
        return out

    def _read(self, most: int) -> bytes:
        if not self._ready.select(max(0.0, self._deadline - time.monotonic())):
            raise TimeoutError
        piece = os.read(self._pipe, most)
        if not piece:
            raise EOFError
        return piece


def _start() -> "subprocess.Popen[bytes]":
    # The worker must find this package wherever the parent found it.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "magicvideo_jax.media.decoder_pool", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders complain there about every damaged byte
        bufsize=0,
        # One arena: with one per decoding thread, memory grows with the number of clips.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MALLOC_ARENA_MAX": "1",
        },
    )


def decode_alone(job: DecodeJob, name: str, *, timeout: float = 60.0) -> DecodedClip:
    """Decode one clip in a process of its own. Errors: `UserError` that begins with `name`."""
    with DecoderPool(1, timeout=timeout) as pool:
        (decoded,) = pool.clips([job])
    if isinstance(decoded, SkippedClip):
        raise UserError(f"{name}: {decoded.reason}")
    return decoded


def decode(job: DecodeJob) -> DecodedClip | SkippedClip:
    """Decode a clip in this process; whatever its decoder raises becomes `SkippedClip`."""
    try:
        timeline = read_timeline(job.path)
        rng = np.random.default_rng(job.seed)
        which, fps = choose_frames(
            timeline, rng, frames=job.frames, fps_range=job.fps_range, part=job.part
        )
        sizes = job.sizes or (frame_size(job.path),)
        return DecodedClip(read_frames(job.path, timeline, which, sizes), fps)
    except UserError as error:
        return SkippedClip(str(error))
    except FileNotFoundError:
        return SkippedClip("is not there any more")
    except MemoryError:
        return SkippedClip("needs too much memory")
    except Exception as error:
        return SkippedClip(f"cannot be decoded ({type(error).__name__})")


def _serve(parent: int) -> None:
    """Answer jobs until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Decoders print: nothing but answers may reach the parent's pipe.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _limit_memory()
    for line in sys.stdin.buffer:
        job = _job_of(json.loads(line))
        result = decode(job)
        if isinstance(result, SkippedClip):
            answers.write(json.dumps({"reason": result.reason}).encode() + b"\n")
        else:
            answers.write(json.dumps({"fps": result.fps, "size": result.size}).encode() + b"\n")
            answers.write(np.ascontiguousarray(result.frames).data)
        answers.flush()


def _job_of(fields: dict[str, Any]) -> DecodeJob:
    return DecodeJob(
        path=Path(fields["path"]),
        seed=tuple(fields["seed"]),
        frames=fields["frames"],
        sizes=tuple((height, width) for height, width in fields["sizes"]),
        fps_range=fields["fps_range"] and tuple(fields["fps_range"]),
        part=ClipPart(fields["part"]),
    )


def _end_with(parent: int) -> None:
    """End this process when its parent ends, whatever a decoder is doing."""
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
