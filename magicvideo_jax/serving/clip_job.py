"""A clip made for the page: names become paths, the process samples, the files lie in the page's folder."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, ModelRequest
from magicvideo_jax.serving.request_text import ModelChoice, settings_text
from magicvideo_jax.serving.result_folder import ResultFolder
from magicvideo_jax.serving.sampler_process import SamplerProcess
from magicvideo_jax.serving.served_models import ServedModels


@dataclass(frozen=True)
class StepsDone:
    """Progress of a clip."""

    done: int
    total: int


@dataclass(frozen=True)
class MadeClip:
    """A clip whose files are there."""

    name: str
    """Name of its files in the result folder, without their endings."""
    choice: ModelChoice
    request: ClipRequest
    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    """Time that it took."""
    compiled: int
    """Programs that were compiled for it."""
    memory: int
    """Bytes that the sampling process then held."""
    has_link: bool = True
    """Whether a link can ask for the same again: not where a clip was uploaded."""


@dataclass(frozen=True)
class ClipMaker:
    """What all tabs of the page make clips with."""

    models: ServedModels
    sampler: SamplerProcess
    results: ResultFolder

    async def sample(
        self, choice: ModelChoice, request: ClipRequest
    ) -> AsyncIterator[StepsDone | MadeClip]:
        """Progress, then the clip. Errors: those of `SamplerProcess.answers`."""
        job = {"kind": "sample", "model": to_plain(self.models.request(choice))}
        async for one in self._made(job, choice, request):
            yield one

    async def refine(
        self, model: ModelRequest, request: ClipRequest, *, frames: str, fps: float
    ) -> AsyncIterator[StepsDone | MadeClip]:
        """The same for frames that were uploaded, a file of numpy."""
        job = {"kind": "refine", "model": to_plain(model), "frames": frames, "fps": fps}
        async for one in self._made(job, ModelChoice(), request, has_link=False):
            yield one

    async def _made(
        self,
        job: Mapping[str, Any],
        choice: ModelChoice,
        request: ClipRequest,
        *,
        has_link: bool = True,
    ) -> AsyncIterator[StepsDone | MadeClip]:
        name, began = self.results.new_clip(), time.monotonic()
        comment = json.dumps(settings_text(request, choice), ensure_ascii=False)
        job = {
            **job,
            "clip": to_plain(request),
            "out": str(self.results.path / name),
            "comment": comment,
        }
        async for answer in self.sampler.answers(job):
            if "done" in answer:
                yield StepsDone(answer["done"], answer["total"])
                continue
            numbers = {
                field: answer[field]
                for field in ("frames", "height", "width", "fps", "compiled", "memory")
            }
            seconds = time.monotonic() - began
            yield MadeClip(name, choice, request, seconds=seconds, has_link=has_link, **numbers)
