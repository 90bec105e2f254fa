"""Metrics over features: what they are for known sets, and that their names are honest."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.evaluation.feature_metrics import (
    FEATURE_METRICS,
    measure_distance,
    real_statistics,
    result_name,
)
from magicvideo_jax.evaluation.frechet import FeatureMoments, frechet_distance
from magicvideo_jax.evaluation.inception_score import inception_score
from magicvideo_jax.evaluation.protocols import PROTOCOLS, EvaluationProtocol
from magicvideo_jax.weights.feature_networks import FEATURE_NETWORKS

TATS = PROTOCOLS["tats"]


@dataclass
class Features:
    """Features in memory, in batches."""

    rows: np.ndarray
    batch: int = 7

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self):
        return (self.rows[i : i + self.batch] for i in range(0, len(self.rows), self.batch))


def features(number: int, seed: int, *, rows: int = 1, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, rows, width)).astype(np.float32)


def flat(x: np.ndarray) -> FeatureMoments:
    return FeatureMoments.of(x.reshape(-1, x.shape[-1]))


@pytest.mark.parametrize("rows", [1, 3])  # of a clip, and of its frames
def test_a_distance_comes_with_its_curve_and_the_floor_of_the_real_set(rows: int):
    made, real = features(40, 0, rows=rows) + 0.5, features(31, 1, rows=rows)
    measured = measure_distance(Features(made), real_statistics(Features(real), TATS), TATS)

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return pytest.approx(frechet_distance(flat(x), flat(y)), rel=1e-6)

    assert measured.value == distance(made, real)
    assert measured.beside == {"same_set_floor": distance(real[::2], real[1::2])}
    assert measured.curve == {n: distance(made[:n], real) for n in (5, 10, 20)}


def test_batches_change_nothing():
    made, real = features(40, 0), features(31, 1)
    values = [
        measure_distance(Features(made, n), real_statistics(Features(real, n), TATS), TATS).value
        for n in (1, 7, 40)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


def test_fewer_clips_are_farther_from_the_same_distribution():
    """So a curve that still falls says that the number is bias."""
    made, real = features(400, 0, width=32), features(400, 1, width=32)
    measured = measure_distance(Features(made), real_statistics(Features(real), TATS), TATS)
    values = [*measured.curve.values(), measured.value]
    assert values == sorted(values, reverse=True)


def test_covariances_are_over_n_or_n_minus_one_as_the_protocol_says():
    made, real = Features(features(10, 0)), Features(2 * features(10, 1))
    over_n = replace(TATS, ddof=0)
    one, other = (measure_distance(made, real_statistics(real, p), p) for p in (TATS, over_n))
    assert one.value != pytest.approx(other.value, rel=1e-3)


def test_the_inception_score_is_between_one_and_the_number_of_classes():
    classes = 8
    uniform = np.full((80, classes), 1 / classes)
    assert inception_score(uniform, splits=4) == pytest.approx((1, 0))
    balanced = np.tile(np.eye(classes), (100, 1))
    assert inception_score(balanced, splits=1) == pytest.approx((classes, 0))


def test_clips_in_the_order_of_their_classes_score_as_in_any_other():
    ordered = np.repeat(np.eye(8), 100, axis=0)
    assert inception_score(ordered, splits=4)[0] > 7.5
    with pytest.raises(UserError, match="of 3 clips in 4 splits: give more clips"):
        inception_score(ordered[:3], splits=4)


def test_clipsim_is_the_mean_cosine_of_all_frames():
    cosines = features(9, 0, rows=4, width=1)
    score = FEATURE_METRICS["clipsim"].score
    assert score is not None
    measured = score(Features(cosines), TATS)
    assert measured.value == pytest.approx(cosines.mean())
    expected = cosines.mean((1, 2)).std(ddof=1) / 3
    assert measured.beside == {"standard_error": pytest.approx(expected)}


def test_only_the_weights_of_the_literature_give_its_names():
    fvd = FEATURE_METRICS["fvd"]
    published = FEATURE_NETWORKS["i3d"].fingerprints
    names = {
        print_: result_name(fvd, known=known, fingerprint=print_)
        for print_, known in published.items()
    }
    assert names == {
        "f40ebf1e": "fvd",
        "658e7402": "frechet_i3d_imagenet",
        "f10c1c5f": "frechet_i3d_kinetics600",
    }
    assert result_name(fvd, known=None, fingerprint="0a1b2c3d") == "frechet_i3d_0a1b2c3d"
    fid = FEATURE_METRICS["fid"]
    known = FEATURE_NETWORKS["inception"].files["6726825d"]
    assert result_name(fid, known=known, fingerprint="?") == "fid_frames"
    assert result_name(fid, known=None, fingerprint="12") == "frechet_inception_12"


def test_a_protocol_names_what_is_other_than_it_says():
    assert not list(TATS.differences(TATS))
    asked = replace(TATS, clips=256, eps=1e-3)
    words = ["clips 256 instead of 2048", "eps 0.001 instead of 1e-05"]
    assert list(TATS.differences(asked)) == words
    assert EvaluationProtocol(frames=16, stride=4).span == 61
