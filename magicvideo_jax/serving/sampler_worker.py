"""The process that samples for the page: jobs come as JSON lines on its standard input, answers go out as such.

    {"job": 3, "kind": "sample", "model": {..}, "clip": {..}, "out": "/tmp/..", "comment": ".."}    a job
    {"cancel": 3}                                                                                 its end

Jobs of the kinds `describe` and `prepare` have a model alone; one of kind `refine` has `frames`, a file of
numpy, and its rate `fps`.
Answers have the number of their job: any number of `{"done": .., "total": ..}`, then one of `{"refused": ..}`,
`{"cancelled": true}`, `{"failed": ..}` and the result. The process ends with its standard input, and so with its
parent.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import jax
import numpy as np

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.cascade.clip_stream import SampledClips
from magicvideo_jax.experiment.requests.clip_making import (
    check_clip_request,
    refine_clips,
    sample_clips,
)
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, ModelRequest, SourceRequest
from magicvideo_jax.media.clip_comment import write_png_archive
from magicvideo_jax.media.clip_files import save_video
from magicvideo_jax.sampling.step_watch import SamplingCancelled
from magicvideo_jax.serving.model_describing import facts_of
from magicvideo_jax.serving.model_shelf import ModelShelf

Job = Mapping[str, Any]

_SECONDS_BETWEEN_STEPS = 0.1
"""Steps that follow faster are not told: a small model does hundreds in a second, and a browser draws each."""
_COMPILED = "/jax/core/compile/backend_compile_duration"


class SamplerWorker:
    """Does one job after the other."""

    def __init__(self, answers: TextIO):
        self._answers, self._number = answers, 0
        self._cancelled: set[int] = set()
        self._shelf = ModelShelf(self._on_step)
        self._compiled, self._told = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self._kinds: dict[str, Callable[[Job], Mapping[str, Any]]] = {
            "describe": self._describe,
            "prepare": self._prepare,
            "sample": self._sample,
            "refine": self._refine,
        }

    def cancel(self, number: int) -> None:
        """End a job before its next step; may be called from another thread."""
        self._cancelled.add(number)

    def do(self, job: Job) -> None:
        """Do a job and answer. Whatever it raises is its answer."""
        self._number, before = int(job["job"]), self._compiled
        try:
            if self._number in self._cancelled:
                raise SamplingCancelled
            result = self._kinds[job["kind"]](job)
            self._say(compiled=self._compiled - before, memory=_memory(), **result)
        except SamplingCancelled:
            self._say(cancelled=True)
        except UserError as error:
            self._say(refused=str(error))
        except Exception as error:
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            self._say(failed=f"{type(error).__name__}: {first}")
        self._cancelled.discard(self._number)

    def _describe(self, job: Job) -> Mapping[str, Any]:
        model = from_plain(ModelRequest, job["model"], "model")
        return {"facts": to_plain(facts_of(self._shelf.pipeline(model), model))}

    def _prepare(self, job: Job) -> Mapping[str, Any]:
        """Compile what most requests need: a clip of the usual settings, cancelled before its first step."""
        self.cancel(self._number)
        return self._sample({**job, "clip": {"prompt": "prepare"}})

    def _sample(self, job: Job) -> Mapping[str, Any]:
        request = from_plain(ClipRequest, job["clip"], "clip")
        source = from_plain(SourceRequest, job.get("source", {}), "source")
        check_clip_request(request, source)
        pipe = self._shelf.pipeline(from_plain(ModelRequest, job["model"], "model"))
        return self._write(sample_clips(pipe, request, source), job)

    def _refine(self, job: Job) -> Mapping[str, Any]:
        request = from_plain(ClipRequest, job["clip"], "clip")
        check_clip_request(request)
        clips = SampledClips(np.load(job["frames"], allow_pickle=False)[None], float(job["fps"]))
        for refiner in self._shelf.refiners(from_plain(ModelRequest, job["model"], "model")):
            clips = refine_clips(clips, request, refiner)
            refiner.release()  # one network at a time is on the devices
        return self._write(clips, job)

    def _write(self, sampled: SampledClips, job: Job) -> Mapping[str, Any]:
        clip, comment = sampled.clips[0], job["comment"]
        for ending in ("mp4", "gif"):
            save_video(clip, f"{job['out']}.{ending}", fps=sampled.fps, comment=comment)
        write_png_archive(clip, Path(f"{job['out']}.zip"), comment=comment)
        frames, height, width, _ = clip.shape
        return {
            "frames": frames,
            "height": height,
            "width": width,
            "fps": sampled.fps,
            "notes": sampled.notes,
        }

    def _on_step(self, done: int, total: int) -> bool:
        now = time.monotonic()
        if done == 0 or now - self._told >= _SECONDS_BETWEEN_STEPS:
            self._told = now
            self._say(done=done, total=total)
        return self._number not in self._cancelled

    def _count(self, event: str, *_: Any, **__: Any) -> None:
        self._compiled += event == _COMPILED

    def _say(self, **answer: Any) -> None:
        try:
            self._answers.write(json.dumps({"job": self._number, **answer}) + "\n")
            self._answers.flush()
        except OSError:  # nobody listens any more
            os._exit(0)


def _memory() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _work() -> None:
    # Libraries print: nothing but answers may reach the parent's pipe.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker, jobs = SamplerWorker(answers), SimpleQueue[Job]()

    def read() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                worker.cancel(message["cancel"])
            else:
                jobs.put(message)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        worker.do(jobs.get())


if __name__ == "__main__":
    _work()
