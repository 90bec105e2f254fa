"""A clip made for the page: names become paths, the process samples, the files lie in the page's folder."""

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.requests.clip_request import (
    NO_SOURCE,
    ClipRequest,
    ModelRequest,
    SourceRequest,
)
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
    notes: tuple[str, ...] = ()
    """What to say of the request: a prompt whose end is cut."""
    has_link: bool = True
    """Whether a link can ask for the same again: not where a clip was uploaded."""


Making = AsyncGenerator[StepsDone | MadeClip, None]
"""A clip in the making: progress, then the clip. Closing it cancels the job. Errors: those of
`SamplerProcess.answers`."""


@dataclass(frozen=True)
class ClipMaker:
    """What all tabs of the page make clips with."""

    models: ServedModels
    sampler: SamplerProcess
    results: ResultFolder

    def sample(
        self, choice: ModelChoice, request: ClipRequest, source: SourceRequest = NO_SOURCE
    ) -> Making:
        """A clip in the making. Errors: `UserError` for names that are not here."""
        model = to_plain(self.models.request(choice))
        job = {"kind": "sample", "model": model, "source": to_plain(source)}
        return self._make(job, choice, request, has_link=source == NO_SOURCE)

    def refine(
        self, model: ModelRequest, request: ClipRequest, *, frames: str, fps: float
    ) -> Making:
        """The same for frames that were uploaded, a file of numpy."""
        job = {"kind": "refine", "model": to_plain(model), "frames": frames, "fps": fps}
        return self._make(job, ModelChoice(), request, has_link=False)

    async def _make(
        self,
        job: Mapping[str, Any],
        choice: ModelChoice,
        request: ClipRequest,
        *,
        has_link: bool = True,
    ) -> Making:
        name, began = self.results.new_clip(), time.monotonic()
        comment = json.dumps(settings_text(request, choice), ensure_ascii=False)
        job = {
            **job,
            "clip": to_plain(request),
            "out": str(self.results.path / name),
            "comment": comment,
        }
        async with aclosing(self._answers(job)) as answers:
            async for answer in answers:
                if "done" in answer:
                    yield StepsDone(answer["done"], answer["total"])
                    continue
                numbers = {
                    field: answer[field]
                    for field in ("frames", "height", "width", "fps", "compiled", "memory")
                }
                yield MadeClip(
                    name,
                    choice,
                    request,
                    seconds=time.monotonic() - began,
                    notes=tuple(answer["notes"]),
                    has_link=has_link,
                    **numbers,
                )

    async def _answers(self, job: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """Answers of the process, whose refusals name files by their paths."""
        async with aclosing(self.sampler.answers(job)) as answers:
            try:
                async for answer in answers:
                    yield answer
            except UserError as error:
                words = self.models.with_names(str(error))
                for path in filter(None, job.get("source", {}).values()):
                    words = words.replace(path, Path(path).name)
                raise UserError(words) from None
