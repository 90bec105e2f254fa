"""Metrics of sets of clips over the features of a network, by the names that `evaluate --metrics` gives them.

A name that the literature uses belongs to one set of weights: what other weights give is named after them
(`result_name`). To add a metric, list it in `FEATURE_METRICS`; what its rows are is said by `feature_extractors.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from magicvideo_jax.evaluation.frechet import FeatureMoments, frechet_distance, moments_of
from magicvideo_jax.evaluation.inception_score import inception_score
from magicvideo_jax.evaluation.protocols import EvaluationProtocol

CURVE_PARTS = (8, 4, 2)
"""The sample-size curve has distances of the first n / 8, n / 4 and n / 2 made clips."""


@runtime_checkable
class FeatureSet(Protocol):
    """Features of clips, in the order of the clips."""

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def batches(self) -> Iterable[Float[np.ndarray, "_ rows d"]]:
        """Features of some clips at a time: a clip has one row, or one for each frame."""
        ...


@dataclass(frozen=True)
class RealStatistics:
    """What a distance needs of a real set."""

    clips: int
    moments: FeatureMoments
    floor: float
    """Distance of the halves of the set, of every other clip: how far equal distributions are apart."""


@dataclass(frozen=True)
class Measured:
    """A metric of a set of clips, and what it is read beside."""

    value: float
    beside: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """The value by number of made clips."""


Measure = Callable[[FeatureSet, EvaluationProtocol], Measured]


@dataclass(frozen=True)
class FeatureMetric:
    """A metric over the features of one network: a distance to a real set, or a score of one set."""

    network: str
    """What `--network=NAME=FILE` calls it."""
    names: Mapping[str, str]
    """Names of the result by the name of published weights (`weights/feature_networks.py`)."""
    otherwise: str
    """Beginning of the name of what other weights give; their checksum follows."""
    score: Measure | None = None
    """What is measured of one set; None for a Fréchet distance of two."""

    @property
    def is_distance(self) -> bool:
        """Whether it compares two sets."""
        return self.score is None


def result_name(metric: FeatureMetric, *, known: str | None, fingerprint: str) -> str:
    """The name of a result: the literature's for its weights alone."""
    if known is not None and known in metric.names:
        return metric.names[known]
    return f"{metric.otherwise}_{fingerprint}"


def real_statistics(real: FeatureSet, protocol: EvaluationProtocol) -> RealStatistics:
    """Moments of a real set, and the distance of its halves. Errors: `UserError` for fewer than four clips."""
    halves = [moments_of(_rows(_every_other(real, first))) for first in (0, 1)]
    floor = frechet_distance(*halves, ddof=protocol.ddof)
    return RealStatistics(len(real), halves[0].merged(halves[1]), floor)


def measure_distance(
    made: FeatureSet, real: RealStatistics, protocol: EvaluationProtocol
) -> Measured:
    """The Fréchet distance of made clips to a real set, and those of the first of them."""
    prefixes = {len(made) // part for part in CURVE_PARTS} - {0, 1}
    curve = {
        number: frechet_distance(moments, real.moments, ddof=protocol.ddof)
        for number, moments in _prefix_moments(made, prefixes | {len(made)})
    }
    value = curve.pop(len(made))
    return Measured(value, {"same_set_floor": real.floor}, curve)


def _prefix_moments(made: FeatureSet, numbers: set[int]) -> Iterator[tuple[int, FeatureMoments]]:
    """Moments of the first clips, for each of these numbers of clips in ascending order."""
    moments, seen = None, 0
    for batch in made.batches():
        ends = sorted(n - seen for n in numbers if seen < n < seen + len(batch))
        for part in np.split(batch, ends):
            of_part = FeatureMoments.of(part.reshape(-1, part.shape[-1]))
            moments = of_part if moments is None else moments.merged(of_part)
            seen += len(part)
            if seen in numbers:
                yield seen, moments


def _every_other(features: FeatureSet, first: int) -> Iterator[Float[np.ndarray, "_ rows d"]]:
    seen = 0
    for batch in features.batches():
        yield batch[(first + seen) % 2 :: 2]
        seen += len(batch)


def _rows(batches: Iterable[Float[np.ndarray, "_ rows d"]]) -> Iterator[Float[np.ndarray, "_ d"]]:
    return (batch.reshape(-1, batch.shape[-1]) for batch in batches)


def _class_score(features: FeatureSet, protocol: EvaluationProtocol) -> Measured:
    """The inception score of class probabilities."""
    probabilities = np.concatenate(list(_rows(features.batches())))
    mean, deviation = inception_score(probabilities, splits=protocol.splits)
    return Measured(mean, {"deviation": deviation})


def _text_similarity(features: FeatureSet, protocol: EvaluationProtocol) -> Measured:
    """The mean over clips of the mean cosine of their frames with their captions (GODIVA, 2104.14806)."""
    of_clips = np.concatenate([batch.mean((1, 2), np.float64) for batch in features.batches()])
    error = of_clips.std(ddof=1) / len(of_clips) ** 0.5 if len(of_clips) > 1 else 0.0
    return Measured(float(of_clips.mean()), {"standard_error": float(error)})


FEATURE_METRICS: dict[str, FeatureMetric] = {
    "fvd": FeatureMetric(
        "i3d",
        {
            "I3D Kinetics-400 (TF-Hub)": "fvd",
            "I3D Kinetics-400 from ImageNet (rgb_imagenet)": "frechet_i3d_imagenet",
            "I3D Kinetics-600": "frechet_i3d_kinetics600",
        },
        "frechet_i3d",
    ),
    "fid": FeatureMetric(
        "inception", {"Inception V3 2015-12-05 (FID)": "fid_frames"}, "frechet_inception"
    ),
    "is": FeatureMetric("c3d", {}, "inception_score_c3d", _class_score),
    "clipsim": FeatureMetric("clip", {"CLIP ViT-B/32": "clipsim"}, "clipsim", _text_similarity),
}
