"""The inception score (Salimans et al. 1606.03498), of clips with C3D's classes (Saito et al. 1611.06624).

    IS = exp mean_x KL(p(y | x) || p(y)),      p(y) = mean_x p(y | x)

It lies between 1 and the number of classes. Splits are of shuffled clips: splits of clips in the order of their classes
hold few classes each, and score low.
"""

import numpy as np
from jaxtyping import Float

from magicvideo_jax.core.errors import UserError

SHUFFLE_SEED = 42
"""Seed of the order in which clips go into splits, as StyleGAN-V has it."""


def inception_score(
    probabilities: Float[np.ndarray, "n classes"], *, splits: int
) -> tuple[float, float]:
    """Mean and standard deviation over splits. Errors: `UserError` for fewer clips than splits."""
    if len(probabilities) < splits:
        raise UserError(
            f"an inception score of {len(probabilities)} clips in {splits} splits: give more clips"
        )
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(probabilities))
    parts = np.array_split(probabilities[order].astype(np.float64), splits)
    scores = [_score(part) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p: Float[np.ndarray, "n classes"]) -> float:
    logs = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(p.mean(0), 1e-300))
    return float(np.exp((p * logs).sum(1).mean()))
