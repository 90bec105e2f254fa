"""Places in an image network where a temporal layer may stand.

A block says where its places are; `temporal_layers.py` says what stands there. A network without
temporal layers, or one that is called for single images, is the same code with no layer at any
place.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.bind import Keys


class Place(Enum):
    """A place in the U-Net, from the inside of a block outwards."""

    RESNET_INPUT = "what the convolutions of a residual block read"
    FIRST_CONV = "output of its first convolution"
    SECOND_CONV = "output of its second convolution"
    TRANSFORMER_INPUT = "between a residual block and a spatial transformer"
    SELF_ATTENTION_KEYS = "keys and values of self-attention"
    SELF_ATTENTION = "output of self-attention, before it is added"
    CROSS_ATTENTION = "after cross-attention"
    FEED_FORWARD = "after the feed-forward"
    BESIDE_TRANSFORMER = "from the input of a spatial transformer to its output"
    TRANSFORMER_OUTPUT = "after a spatial transformer"
    BLOCK = "after a residual block and its transformer"
    MIDDLE_BLOCK = "the same in the middle, before its second residual block"
    LEVEL = "after a level and its resampling; skip connections are taken before"


class Site(NamedTuple):
    """What a temporal layer has to know of its place."""

    channels: int
    heads: int
    """Number of heads of the spatial attention there; 0 without one."""
    groups: int
    embedding: int
    """Width of the time embedding."""
    keys: Keys


class TemporalLayer(NamedTuple):
    """A temporal layer, its place, and its name in the paths of its parameters.

    It maps activations to activations; at places "after" something, to what is added to them.
    """

    place: Place
    name: str
    build: Callable[[Site], nnx.Module]


class WithPlaces(nnx.Module):
    """A block with places for temporal layers."""

    def insert(self, layers: Sequence[TemporalLayer], site: Site, *places: Place) -> None:
        """Build the layers that stand at `places` of this block, as attributes."""
        here = [layer for layer in layers if layer.place in places]
        self.inserted = tuple((layer.place, layer.name) for layer in here)
        for layer in here:
            setattr(self, layer.name, layer.build(site))

    def at(self, place: Place, h: Float[Array, "..."], *more: Any) -> Float[Array, "..."]:
        """The output of the layers at a place, one after the other; `h` itself where there are
        none."""
        for there, name in self.inserted:
            if there is place:
                h = getattr(self, name)(h, *more)
        return h

    def added_at(
        self, place: Place, h: Float[Array, "..."], of: Float[Array, "..."] | None = None
    ) -> Float[Array, "..."]:
        """Add to `h` what the layers at a place make of it, or of another input."""
        for there, name in self.inserted:
            if there is place:
                h = h + getattr(self, name)(h if of is None else of)
        return h
