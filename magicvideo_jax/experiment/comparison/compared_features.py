"""Features of two sets of clips under one metric, and what they depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicvideo_jax.evaluation.feature_extractors import FeatureExtractor
from magicvideo_jax.evaluation.feature_metrics import (
    FeatureMetric,
    Measured,
    RealStatistics,
    measure_distance,
)
from magicvideo_jax.evaluation.protocols import EvaluationProtocol, protocol_fields
from magicvideo_jax.experiment.comparison.clip_sets import ClipSet
from magicvideo_jax.experiment.comparison.feature_files import FeatureFiles

_OF_FRAMES = ("frames", "stride", "window", "ddof")
"""Fields of a protocol that statistics of a real set depend on, whatever the network."""
_OF_FIT = ("crop", "fit", "eps")
"""Fields that features of a network depend on whose frames the protocol fits."""


@dataclass(frozen=True)
class ComparedFeatures:
    """A metric with its network, and features of made clips and of real ones, where these are not in a file."""

    metric: FeatureMetric
    network: FeatureExtractor
    made: FeatureFiles
    real: FeatureFiles | None


def measure_features(
    compared: ComparedFeatures, of_real: RealStatistics | None, protocol: EvaluationProtocol
) -> Measured:
    """The metric of made clips; a score comes with that of the real ones, where there are any."""
    score = compared.metric.score
    if score is None:
        assert of_real is not None, "a distance is to something"
        return measure_distance(compared.made, of_real, protocol)
    measured = score(compared.made, protocol)
    if compared.real is None:
        return measured
    beside = {**measured.beside, "real": score(compared.real, protocol).value}
    return Measured(measured.value, beside, measured.curve)


def feature_about(network: FeatureExtractor, protocol: EvaluationProtocol) -> Mapping[str, Any]:
    """What features depend on besides the clips, as JSON."""
    fields = protocol_fields(protocol)
    fit = {name: fields[name] for name in _OF_FIT if network.is_fitted}
    return {"network": network.words, "fingerprint": network.fingerprint, **fit}


def statistics_about(network: FeatureExtractor, protocol: EvaluationProtocol) -> Mapping[str, Any]:
    """What statistics of a real set depend on besides the set, as JSON."""
    fields = protocol_fields(protocol)
    return {**feature_about(network, protocol), **{name: fields[name] for name in _OF_FRAMES}}


def describe_set(clips: ClipSet, protocol: EvaluationProtocol) -> str:
    """Number, size and source of a set: `2048 (16 x 64 x 64; held-out drawn shapes, seed 0)`."""
    height, width = clips.size()
    return f"{len(clips)} ({protocol.frames} x {height} x {width}; {clips.words()})"
