"""Which frames of a training example are known beforehand: a pattern drawn for each."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from magicvideo_jax.core.checks import FieldError, share
from magicvideo_jax.core.keys import subkey


@dataclass(frozen=True)
class KnownFramesConfig:
    """How often each pattern is drawn. All other examples know no frame: they are text to video."""

    first: float = 0.0
    """The first frame: a clip of a picture."""
    first_and_last: float = 0.0
    """The first and the last: interpolation."""
    beginning: float = 0.0
    """The first k, all numbers from 1 to one less than all equally often: a clip that goes on."""
    every_fourth: float = 0.0
    """Frames 0, 4, 8 and so on."""

    def __post_init__(self) -> None:
        share(self, *(one.name for one in fields(self)))
        if self.total > 1 + 1e-6:
            raise FieldError(f"the shares add up to {self.total:.3g}: give at most 1 in all")

    @property
    def total(self) -> float:
        """Share of the examples in which a frame is known."""
        return self.first + self.first_and_last + self.beginning + self.every_fourth


def draw_known_frames(
    key: PRNGKeyArray,
    config: KnownFramesConfig,
    *,
    examples: int,
    frames: int,
    is_late: Bool[Array, "b"] | None = None,
) -> Bool[Array, "b t"]:
    """Known frames of each example: a pattern of the config, or none; of late ones, always the beginning.

    Patterns are drawn at equal distances from a random first one, as times are, so that a batch has
    each about as often as the config says.
    """
    at = jnp.arange(frames)
    number = jax.random.randint(subkey(key, "number"), (examples,), 1, max(frames, 2))
    same = (at == 0, (at == 0) | (at == frames - 1), at % 4 == 0, jnp.zeros(frames, bool))
    first, both, fourth, none = (jnp.broadcast_to(one[None], (examples, frames)) for one in same)
    beginning = at[None] < number[:, None]
    patterns = jnp.stack([first, both, beginning, fourth, none], axis=1)
    shares = [config.first, config.first_and_last, config.beginning, config.every_fourth]
    ends = jnp.cumsum(jnp.array(shares))
    offset, order = jax.random.uniform(subkey(key, "pattern")), jnp.arange(examples) / examples
    u = jax.random.permutation(subkey(key, "order"), (offset + order) % 1)
    chosen = jnp.searchsorted(ends, u, side="right")
    known = jnp.take_along_axis(patterns, chosen[:, None, None], axis=1)[:, 0]
    return known if is_late is None else jnp.where(is_late[:, None], beginning, known)
