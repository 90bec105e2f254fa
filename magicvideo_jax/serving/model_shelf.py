"""Models kept loaded: the last few that were asked for, in the process that samples."""

import gc
from collections import OrderedDict
from pathlib import Path

from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.experiment.requests.clip_making import load_model, open_refiners
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.sampling.step_watch import OnStep

MOST_LOADED = 2


class ModelShelf:
    """Pipelines and refiners by their requests. The longest unused goes where a new one comes."""

    def __init__(self, on_step: OnStep, most: int = MOST_LOADED):
        self._on_step, self._most = on_step, most
        self._loaded: OrderedDict[object, Pipeline | list[ClipRefiner]] = OrderedDict()

    def pipeline(self, request: ModelRequest) -> Pipeline:
        """The model of a request; a work folder is read again when it has a newer checkpoint.

        Errors: those of `load_model`.
        """
        key = (request, _newest_checkpoint(request.workdir))
        found = self._find(key)
        if isinstance(found, Pipeline):
            return found
        pipe = load_model(request)
        pipe.watch_steps(self._on_step)
        self._loaded[key] = pipe
        return pipe

    def refiners(self, request: ModelRequest) -> list[ClipRefiner]:
        """The networks that clips go through. Errors: those of `open_refiners`."""
        key = ("refiners", request)
        found = self._find(key)
        if isinstance(found, list):
            return found
        refiners = open_refiners(request)
        for refiner in refiners:
            refiner.watch_steps(self._on_step)
        self._loaded[key] = refiners
        return refiners

    def _find(self, key: object) -> Pipeline | list[ClipRefiner] | None:
        """What is loaded under a key; else None, with room made for it."""
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        while len(self._loaded) >= self._most:
            self._loaded.popitem(last=False)
        gc.collect()  # programs and parameters refer to each other in circles
        return None


def _newest_checkpoint(workdir: str) -> int:
    """A number that changes with every checkpoint of a work folder; 0 for weights without any."""
    try:
        return (Path(workdir).expanduser() / "checkpoints").stat().st_mtime_ns
    except OSError:
        return 0
