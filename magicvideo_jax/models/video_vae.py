"""VideoVAE (arXiv 2211.11018, section 4.5): an image VAE whose decoder has temporal layers,
against flicker.

Temporal layers follow some of the decoder's up levels (`places`):

    h^k <- h^k + A(h^{k-W+1} .. h^k)        A: attention over the last W frames at each pixel, W_o = 0 at start

All other layers, norms included, work frame by frame, so no frame depends on a later one. At each
place a frame needs the states `h` of the W - 1 frames before it, however long the clip is.
`TemporalCache` carries these, so that a clip decoded in chunks equals the clip decoded at once.
The encoder is unchanged: all latents stay valid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from magicvideo_jax.core.checks import at_least, divides, refused
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.temporal import PositionEncoding, TemporalConfig
from magicvideo_jax.models.temporal_attention import TemporalAttention


@dataclass(frozen=True)
class TemporalDecoderConfig:
    """Temporal layers of a VideoVAE's decoder."""

    places: tuple[int, ...] = (0, 1)
    """Places of temporal layers, as numbers of preceding up levels; 0 is after the middle block.
    """
    window: int = 16
    """Number of frames that a frame attends to: itself and those just before it."""
    heads: int = 8
    position: PositionEncoding = PositionEncoding.ROPE
    """Positional encoding. Unlike in the U-Net, there are no adaptors to distinguish frames."""

    def __post_init__(self) -> None:
        if not self.places or list(self.places) != sorted(set(self.places)) or self.places[0] < 0:
            raise refused(self, "places", "give numbers of up levels, each once and in order")
        at_least(1, self, "window", "heads")
        if self.position is PositionEncoding.LEARNED:
            raise refused(
                self,
                "position",
                "clips of any length have no table of positions; give rope or none",
            )

    def check(self, widths: Sequence[int]) -> None:
        """Check that the layers fit a decoder with `widths` channels at its places.

        Errors: `FieldError`.
        """
        if self.places[-1] >= len(widths):
            last = len(widths) - 1
            raise refused(
                self, "places", f"this decoder has {last} up levels; give places from 0 to {last}"
            )
        for place in self.places:
            divides(widths[place], self, "heads", of=f"the width at place {place}")


class TemporalCache(NamedTuple):
    """State of a decoder between chunks of a clip. All zeros before the first frame."""

    states: tuple[Float[Array, "b _w _h2 _w2 _c"], ...]
    """States of the last window - 1 frames at each place, with masked zeros in front of the first
    frame."""
    frames_seen: Int[Array, ""]
    """Number of frames decoded so far."""


class WindowAttention(TemporalAttention):
    """Residual of causal attention over the last `window` frames at each pixel; zero at
    initialisation.
    """

    def __init__(self, config: TemporalDecoderConfig, channels: int, *, keys: Keys):
        super().__init__(
            TemporalConfig(position=config.position), channels, heads=config.heads, keys=keys
        )
        self.window = config.window

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        cached: Float[Array, "b p h w c"] | None = None,
        frames_seen: Int[Array, ""] | int = 0,
    ) -> Float[Array, "b t h w c"]:
        """Attend from `z` to itself and to the last `frames_seen` of the cached frames before it."""
        t = z.shape[1]
        frames = z if cached is None else jnp.concatenate([cached, z], axis=1)
        mask = sliding_window_mask(
            t, frames.shape[1] - t, window=self.window, frames_seen=frames_seen
        )
        return self.attend_last(frames, t, mask)


def sliding_window_mask(
    t: int, cached: int, *, window: int, frames_seen: Int[Array, ""] | int
) -> Bool[Array, "t f"]:
    """Causal mask of `t` queries over `cached + t` frames, limited to a window.

    Row i is frame `cached + i`, and attends to the `window` frames that end with it. Of the cached
    frames only the last `frames_seen` are real; all others are masked.
    """
    query, key = cached + jnp.arange(t)[:, None], jnp.arange(cached + t)[None]
    in_window = (key <= query) & (query < key + window)
    return in_window & (key >= cached - frames_seen)


class TemporalDecoderLayers(nnx.Module):
    """Temporal layers of a decoder that has `widths` channels at its places."""

    def __init__(self, config: TemporalDecoderConfig, widths: Sequence[int], *, keys: Keys):
        config.check(widths)
        self.layers = nnx.List(
            [WindowAttention(config, widths[place], keys=keys) for place in config.places]
        )
        self.places, self.window = config.places, config.window

    def run_blocks(
        self,
        blocks: Sequence[Callable[[Array], Array]],
        z: Float[Array, "b t h w c"],
        cache: TemporalCache | None = None,
    ) -> tuple[Float[Array, "b t h2 w2 c2"], TemporalCache]:
        """Run the blocks of a decoder, which end at places 0, 1 .., with the temporal layers at
        their places.
        """
        frames_seen = jnp.zeros((), jnp.int32) if cache is None else cache.frames_seen
        states = []
        for place, block in enumerate(blocks):
            z = block(z)
            if place not in self.places:
                continue
            index = self.places.index(place)
            cached = None if cache is None else cache.states[index]
            states.append(self._last_states(z, cached))
            z = z + self.layers[index](z, cached, frames_seen)
        return z, TemporalCache(tuple(states), frames_seen + z.shape[1])

    def _last_states(
        self, z: Float[Array, "b t h w c"], cached: Float[Array, "b p h w c"] | None
    ) -> Float[Array, "b p2 h w c"]:
        """States of the last window - 1 frames, for the next chunk."""
        length = self.window - 1
        if cached is None:
            cached = jnp.zeros((z.shape[0], length, *z.shape[2:]), z.dtype)
        states = jnp.concatenate([cached, z], axis=1)
        return states[:, states.shape[1] - length :]
