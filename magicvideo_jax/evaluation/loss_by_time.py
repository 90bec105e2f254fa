"""Denoising loss on held-out data: its mean, and the loss in each bin of diffusion time.

Low noise levels show texture, high ones layout and motion. Values are comparable between networks
that predict the same quantity in the same latents.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike


def loss_by_time(
    measure: Callable[[Any, int], Mapping[str, ArrayLike]],
    batches: Iterable[Any],
    *,
    rounds: int = 4,
) -> Iterator[tuple[str, float]]:
    """Yield `(name, loss)`: the mean, then time_0 (least noise) to time_9.

    Empty bins are left out.

    `measure(batch, number)` draws new times and noise for each number. It gives `time_bin_loss`
    and `time_bin_count`: sum and number of losses in equal bins of time.
    """
    batches = list(batches)
    losses, counts = np.zeros(()), np.zeros(())
    for number in range(rounds * len(batches)):
        binned = measure(batches[number % len(batches)], number)
        losses = losses + np.asarray(binned["time_bin_loss"], np.float64)
        counts = counts + np.asarray(binned["time_bin_count"], np.float64)
    yield "mean", float(losses.sum() / counts.sum())
    for index, (loss, count) in enumerate(zip(losses, counts, strict=True)):
        if count:
            yield f"time_{index}", float(loss / count)
