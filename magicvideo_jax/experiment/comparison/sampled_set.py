"""Clips that a model samples for the captions of a real set, a few at a time."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.evaluation.protocols import EvaluationProtocol
from magicvideo_jax.experiment.comparison.clip_sets import ClipSet, SomeClips
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.sampling.keyframes import SampleConfig


class SampledSet:
    """A `ClipSet` of a model. Clip i has the caption, frame rate and noise of number i, however many are sampled."""

    def __init__(
        self,
        pipe: Pipeline,
        sample: SampleConfig,
        captioned: ClipSet,
        protocol: EvaluationProtocol,
        *,
        name: str,
        seed: int,
    ):
        """`captioned` gives the captions, from the first again where it has fewer clips than the protocol.

        Errors: `UserError` for a model of shorter clips than the protocol compares.
        """
        frames = stage_of(pipe.experiment).frames(pipe.experiment)
        if frames < protocol.frames:
            raise UserError(
                f"--frames={protocol.frames}: the clips of {name} have {frames} frames: give at most these"
            )
        self._pipe, self._sample, self._captioned = pipe, sample, captioned
        self._protocol, self._name, self._seed = protocol, name, seed

    @cached_property
    def _digest(self) -> str:
        return parameter_digest(self._pipe.params)

    def size(self) -> tuple[int, int]:
        """Height and width that are sampled."""
        side = self._pipe.experiment.data.size
        height, width = self._sample.size or (side, side)
        return height, width

    def identity(self) -> Mapping[str, Any]:
        """The parameters, and all that sampling depends on."""
        return {
            "parameters": self._digest,
            "sample": to_plain(self._sample),
            "seed": self._seed,
            "frames": self._protocol.frames,
            "size": list(self.size()),
            "captions": self._captioned.identity(),
        }

    def words(self) -> str:
        """Name of the weights, and sampler."""
        s = self._sample
        return f"{self._name}, {s.sampler.value}, {s.steps} steps, guidance {s.guidance:g}, seed {self._seed}"

    def __len__(self) -> int:
        return self._protocol.clips

    def read(self, which: range) -> SomeClips:
        """Sample some clips. Errors: `UserError` for a clip of the real set without a caption."""
        captions, rates = self.captions(which)
        if not all(caption.strip() for caption in captions):
            raise UserError(
                f"{self._captioned.words()}: a clip without a caption, which nothing can be sampled for: "
                "give another set, or --made"
            )
        clips = self._pipe.many(
            captions,
            self._sample,
            fps=[rate or self._sample.fps for rate in rates],
            seed=self._seed,
            batch_size=self._pipe.experiment.evaluate.batch_size,
            first_clip=which.start,
        )
        return SomeClips(clips[:, : self._protocol.frames], captions, rates)

    def captions(self, which: range) -> tuple[list[str], list[float]]:
        """Captions and frame rates of the real set's clips of these numbers."""
        there = (self._captioned.captions(range(i, i + 1)) for i in self._wrapped(which))
        pairs = [(captions[0], rates[0]) for captions, rates in there]
        return [caption for caption, _ in pairs], [rate for _, rate in pairs]

    def _wrapped(self, which: range) -> list[int]:
        number = len(self._captioned)
        return [i % number for i in which]


def parameter_digest(params: Params) -> str:
    """A checksum of all parameters, by name and bit for bit."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()[:16]
