"""The Fréchet distance of two sets of features, each seen as a Gaussian (Heusel et al. 1706.08500).

    d^2 = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (A S_2 A)^(1/2),      A = S_1^(1/2)                (1)

Two symmetric eigenvalue problems give the traces, in float64: nothing becomes complex, nothing is added to diagonals.
The moments of parts a and b merge into those of both (Chan, Golub & LeVeque 1983):

    delta = mu_b - mu_a,   mu = mu_a + delta n_b / n,   M = M_a + M_b + delta delta^T n_a n_b / n,   n = n_a + n_b   (2)
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError

Rows = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class FeatureMoments:
    """Number, mean and scatter matrix of features, in float64."""

    number: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]
    """The sum of (x - mean)(x - mean)^T."""

    @classmethod
    def of(cls, rows: Rows) -> "FeatureMoments":
        """Moments of one batch. Errors: `UserError` for features that are not finite."""
        if not np.isfinite(rows).all():
            raise UserError(
                "features are not finite: the network's weights or its input are broken"
            )
        x = rows.astype(np.float64)
        mean = x.mean(0) if len(x) else np.zeros(x.shape[1])
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def merged(self, other: "FeatureMoments") -> "FeatureMoments":
        """Moments of both sets together, equation (2)."""
        number = self.number + other.number
        if not number:
            return self
        delta = other.mean - self.mean
        between = np.outer(delta, delta) * (self.number * other.number / number)
        mean = self.mean + delta * (other.number / number)
        return FeatureMoments(number, mean, self.scatter + other.scatter + between)

    def covariance(self, *, ddof: int = 1) -> Float[np.ndarray, "d d"]:
        """The scatter over n - `ddof`. Errors: `UserError` for fewer than two rows."""
        if self.number < 2:
            raise UserError(
                f"a covariance of {self.number} rows of features: give two clips or more"
            )
        return self.scatter / (self.number - ddof)


def moments_of(batches: Iterable[Float[np.ndarray, "_ d"]]) -> FeatureMoments:
    """Moments of a stream of batches, of which one is in memory at a time. Errors: `UserError` for no batch."""
    total = None
    for rows in batches:
        moments = FeatureMoments.of(rows)
        total = moments if total is None else total.merged(moments)
    if total is None:
        raise UserError("features of no clips: give two clips or more")
    return total


def frechet_distance(one: FeatureMoments, other: FeatureMoments, *, ddof: int = 1) -> float:
    """d^2 of equation (1), which the literature calls the distance. Rounding may make it slightly negative.

    `ddof` is 1 for covariances over n - 1, 0 for those over n. Errors: `UserError` for sets of fewer than two rows, or
    of different widths.
    """
    if one.mean.shape != other.mean.shape:
        raise UserError(
            f"features of {len(one.mean)} and of {len(other.mean)} numbers come from different networks"
        )
    s1, s2 = one.covariance(ddof=ddof), other.covariance(ddof=ddof)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root @ s2 @ root
    # Rounding makes the product slightly asymmetric, and eigenvalues of zero slightly negative.
    of_product = np.linalg.eigvalsh((product + product.T) / 2)
    traces = np.trace(s1) + np.trace(s2) - 2 * np.sqrt(np.maximum(of_product, 0)).sum()
    return float(np.square(one.mean - other.mean).sum() + traces)
