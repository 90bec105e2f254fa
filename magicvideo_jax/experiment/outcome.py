"""What a run comes to: rows to look at and scores, both of what it has not learned from; each stage has its own."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.types import Params

Scores = dict[str, float | dict[str, float]]
"""Numbers by name, some of them by part."""

PreviewRows = list[tuple[str, UInt8[np.ndarray, "t h w 3"]]]
"""Clips under their captions."""


@runtime_checkable
class Evaluator(Protocol):
    """Functions of the whole parameters of a run."""

    def preview(self, params: Params) -> PreviewRows:
        """A few, the same each time."""
        ...

    def metrics(self, params: Params) -> Scores:
        """Of `evaluate.clips` examples, or four times as many pictures."""
        ...
