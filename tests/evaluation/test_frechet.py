"""Laws of the Fréchet distance, and that it is the one that others compute."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.evaluation.frechet import FeatureMoments, frechet_distance, moments_of


def rows(number: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated features away from zero."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((width, width)) / width**0.5
    return (rng.standard_normal((number, width)) @ mixing + 3).astype(np.float32)


def distance(x: np.ndarray, y: np.ndarray, **options: int) -> float:
    return frechet_distance(FeatureMoments.of(x), FeatureMoments.of(y), **options)


@pytest.mark.parametrize("number", [20, 200])  # fewer and more than numbers of a feature
def test_a_set_is_at_distance_zero_from_itself(number: int):
    x = rows(number, 32)
    assert abs(distance(x, x)) < 1e-6 * np.trace(np.cov(x.T))


def test_it_is_symmetric():
    x, y = rows(100, 16), 1.3 * rows(80, 16, seed=1)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)


def test_diagonal_gaussians_have_a_closed_form():
    """d^2 = |mu_1 - mu_2|^2 + sum (s_1 - s_2)^2 for standard deviations s."""
    rng = np.random.default_rng(0)
    means, stds = rng.standard_normal((2, 8)), rng.uniform(0, 2, (2, 8))
    ours = [FeatureMoments(11, m, 10 * np.diag(s**2)) for m, s in zip(means, stds, strict=True)]
    closed = np.square(means[0] - means[1]).sum() + np.square(stds[0] - stds[1]).sum()
    assert frechet_distance(*ours) == pytest.approx(closed, rel=1e-9)


def test_a_shift_alone_is_the_squared_distance_of_the_means():
    x = rows(100, 8).astype(np.float64)
    shift = np.arange(8) / 4
    assert distance(x, x + shift) == pytest.approx(np.square(shift).sum(), rel=1e-7)


def test_it_grows_with_noise():
    x, noise = rows(300, 8), np.random.default_rng(1).standard_normal((300, 8))
    distances = [distance(x, x + level * noise) for level in (0, 0.3, 1, 3)]
    assert distances == sorted(distances)
    assert distances[-1] > 1


def test_fewer_rows_than_numbers_of_a_feature_give_a_finite_distance():
    assert 0 < distance(rows(5, 64), rows(7, 64, seed=1)) < np.inf


@pytest.mark.parametrize("parts", [1, 3, 17, 100])
def test_a_stream_has_the_moments_of_one_batch_in_any_split_and_order(parts: int):
    x = rows(100, 12)
    shuffled = np.random.default_rng(parts).permutation(x)
    streamed, whole = moments_of(np.array_split(shuffled, parts)), FeatureMoments.of(x)
    assert streamed.number == 100
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance(), np.cov(x.T.astype(np.float64)), atol=1e-12)


def test_an_empty_batch_changes_nothing():
    x = rows(10, 4)
    streamed = moments_of([x[:0], x, x[:0]])
    assert streamed.number == 10
    np.testing.assert_allclose(streamed.scatter, FeatureMoments.of(x).scatter)


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_one_that_a_matrix_square_root_gives(ddof: int):
    """It is computed so by pytorch-fid, StyleGAN-V and others."""
    x, y = rows(200, 24), 0.7 * rows(150, 24, seed=2) + 0.2
    s1, s2 = (np.cov(z.T.astype(np.float64), ddof=ddof) for z in (x, y))
    means = np.square(x.mean(0, np.float64) - y.mean(0, np.float64)).sum()
    theirs = means + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert distance(x, y, ddof=ddof) == pytest.approx(theirs, rel=1e-6)


def test_it_is_that_of_torchmetrics():
    fid = pytest.importorskip(
        "torchmetrics.image.fid", reason="needs torchmetrics: requirements-dev.txt"
    )
    torch = pytest.importorskip("torch")

    class Flat(torch.nn.Module):
        num_features = 24

        def forward(self, x):
            return x.reshape(len(x), -1).to(torch.float64)

    x, y = rows(200, 24), 0.7 * rows(150, 24, seed=2) + 0.2
    theirs = fid.FrechetInceptionDistance(feature=Flat(), normalize=True)
    theirs.set_dtype(torch.float64)
    for z, is_real in ((x, True), (y, False)):
        theirs.update(torch.from_numpy(z).reshape(-1, 3, 2, 4), real=is_real)
    assert distance(x, y) == pytest.approx(float(theirs.compute()), rel=1e-5)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (rows(1, 4), rows(9, 4), "of 1 rows of features: give two clips or more"),
        (rows(9, 4), rows(9, 5), "of 4 and of 5 numbers come from different networks"),
        (rows(9, 4) * np.nan, rows(9, 4), "features are not finite"),
    ],
)
def test_sets_without_a_distance_are_refused(one, other, said: str):
    with pytest.raises(UserError, match=said):
        distance(one, other)
    with pytest.raises(UserError, match="features of no clips"):
        moments_of([])
