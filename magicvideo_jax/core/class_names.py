"""Names of classes in the place of a tokenizer: a caption is one of them, or says nothing."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from magicvideo_jax.core.errors import UserError

NO_CLASS = -1
"""Id of an empty caption."""


class ClassNames:
    """Captions to ids: the place of a name in `names`, whatever its case; `NO_CLASS` for none."""

    def __init__(
        self, names: Sequence[str], *, argument: str = "config.flow_diffusion.classes: caption"
    ):
        """`argument` is where captions come from, for messages."""
        self.names, self._argument = tuple(names), argument
        self._ids = {plain_name(name): i for i, name in enumerate(self.names)} | {"": NO_CLASS}

    def __call__(self, captions: Sequence[str]) -> Int32[np.ndarray, "b 1"]:
        """Ids of captions. Errors: `UserError` for one that is no name."""
        for caption in captions:
            if plain_name(caption) not in self._ids:
                raise UserError(
                    f"{self._argument}={caption}: no class of this model: give one of "
                    f"{', '.join(self.names)}"
                )
        return np.array([[self._ids[plain_name(caption)]] for caption in captions], np.int32)

    def note_on(self, caption: str) -> str:
        """Nothing: a name is always read whole."""
        del caption
        return ""


def plain_name(name: str) -> str:
    """A name without its case and the number of its spaces."""
    return " ".join(name.casefold().split())
