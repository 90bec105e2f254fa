"""The text encoder of given weights as a function from captions to stored states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.opening.initial_weights import initial_weights
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.weights.fingerprint import (
    Fingerprint,
    text_fingerprint,
)

_AT_ONCE = 4
"""Captions that are encoded together; fewer are padded, so that one program serves all batches."""


@dataclass(frozen=True)
class CaptionEncoder:
    """Encodes captions; built by `open_caption_encoder`."""

    encode: Any
    params: Params
    tokenizer: CaptionTokenizer
    identity: Fingerprint

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (l d) of one caption's states."""
        return self.identity["tokens"], self.identity["width"]

    def __call__(self, captions: Sequence[str]) -> Float16[np.ndarray, "n l d"]:
        states = [np.zeros((0, *self.shape), np.float16)]
        for first in range(0, len(captions), _AT_ONCE):
            some = captions[first : first + _AT_ONCE]
            ids = np.pad(self.tokenizer(some), ((0, _AT_ONCE - len(some)), (0, 0)), mode="edge")
            states.append(np.asarray(self.encode(self.params, ids)).astype(np.float16)[: len(some)])
        return np.concatenate(states)


def open_caption_encoder(weights: str, *, argument: str) -> CaptionEncoder:
    """Open the text encoder of Stable Diffusion weights in any form, a run, or `embedded`.

    Errors: `UserError` naming `argument`.
    """
    initial = initial_weights(weights, argument=argument)
    if Component.TEXT not in initial.parts or initial.weights.tokenizer is None:
        raise UserError(
            f"{argument}={weights}: no text encoder with its tokenizer: "
            "give Stable Diffusion weights"
        )
    model, networks, params = initial.opened(Component.TEXT)
    tokenizer = CaptionTokenizer(initial.weights.tokenizer, length=model.text.tokens)
    identity = text_fingerprint(params[Component.TEXT.value], model.text)
    return CaptionEncoder(jit(networks.encode_text), params, tokenizer, identity)
