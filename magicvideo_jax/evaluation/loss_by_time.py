"""How well a network denoises what it has not seen: its loss, and the loss in each bin of diffusion time.

Shows where a model is weak: little noise is texture, much noise is what is where and how it moves. Of one network
through its training, or of two that predict the same quantity in the same latents; otherwise not to be compared.
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
    """Yields `(name, loss)`: mean, then time_0 (least noise) to time_9, where a bin was met at all.

    `measure(batch, number)` draws times and noise of its own for each number and gives `time_bin_loss` and
    `time_bin_count`, sums and numbers of losses in equal bins of time.
    """
    batches = list(batches)
    losses, counts = np.zeros(()), np.zeros(())
    for number in range(rounds * len(batches)):
        found = measure(batches[number % len(batches)], number)
        losses = losses + np.asarray(found["time_bin_loss"], np.float64)
        counts = counts + np.asarray(found["time_bin_count"], np.float64)
    yield "mean", float(losses.sum() / counts.sum())
    for place, (loss, count) in enumerate(zip(losses, counts, strict=True)):
        if count:
            yield f"time_{place}", float(loss / count)
