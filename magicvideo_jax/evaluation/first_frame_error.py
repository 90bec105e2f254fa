"""Distance of clips from the true ones that begin with the same frame, beside standing still."""

import numpy as np

from magicvideo_jax.core.types import Clips


def first_frame_error(samples: Clips, reference: Clips) -> dict[str, float]:
    """Mean absolute error in levels of all frames but the first, which was known, and that of the first
    frame repeated. Clips have two frames or more."""
    truth = reference[:, 1:].astype(np.float64)
    guesses = {"l1": samples[:, 1:], "l1_of_repetition": reference[:, :1]}
    return {name: float(np.abs(guess - truth).mean()) for name, guess in guesses.items()}
