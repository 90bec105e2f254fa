"""VideoVAE (arXiv 2211.11018, section 4.5): an image VAE whose decoder has temporal layers, against flicker.

Temporal layers follow some of the decoder's up levels (`places`):

    h^k <- h^k + A(h^{k-W+1} .. h^k)        A: attention over the last W frames at each pixel, W_o = 0 at start

All other layers, norms included, work frame by frame, so no frame depends on a later one. At each place a frame
needs the states `h` of the W - 1 frames before it, however long the clip is. `TemporalCache` carries these, so that
a clip decoded in chunks equals the clip decoded at once. The encoder is unchanged: all latents stay valid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from magicvideo_jax.core.checks import at_least, divides, refused
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.temporal import PositionEncoding, TemporalAttention, TemporalConfig


@dataclass(frozen=True)
class TemporalDecoderConfig:
    """What a VideoVAE adds to the decoder of a VAE."""

    places: tuple[int, ...] = (0, 1)
    """Where frames meet: behind so many up levels. 0 is before the first, behind the middle block."""
    window: int = 16
    """Frames that a frame sees: itself, and those just before it."""
    heads: int = 8
    position: PositionEncoding = PositionEncoding.ROPE
    """Unlike the U-Net's, these layers have no adaptors beside them to tell frames apart."""

    def __post_init__(self) -> None:
        if not self.places or list(self.places) != sorted(set(self.places)) or self.places[0] < 0:
            raise refused(self, "places", "give numbers of up levels, each once and in order")
        at_least(1, self, "window", "heads")
        if self.position is PositionEncoding.LEARNED:
            raise refused(
                self, "position", "clips of any length have no rows for it; give rope or none"
            )

    def check(self, widths: Sequence[int]) -> None:
        """Check the fields against a decoder with these widths from place to place. Errors: `FieldError`."""
        if self.places[-1] >= len(widths):
            last = len(widths) - 1
            raise refused(
                self, "places", f"this decoder has {last} up levels; give places from 0 to {last}"
            )
        for place in self.places:
            divides(widths[place], self, "heads", of=f"the width at place {place}")


class TemporalCache(NamedTuple):
    """What a decoder keeps of the frames before, to go on with the next. All zeros: there are none yet."""

    states: tuple[Float[Array, "b _w _h2 _w2 _c"], ...]
    """At each place the states of the last window - 1 frames; in front of the first frame, zeros that nobody sees."""
    frames_seen: Int[Array, ""]
    """Frames so far."""


class WindowAttention(TemporalAttention):
    """Directed attention over the last `window` frames at each pixel; returns what is to be added, zero at start."""

    def __init__(self, config: TemporalDecoderConfig, channels: int, *, keys: Keys):
        super().__init__(
            TemporalConfig(position=config.position), channels, heads=config.heads, keys=keys
        )
        self.window = config.window

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        before: Float[Array, "b p h w c"] | None = None,
        number: Int[Array, ""] | int = 0,
    ) -> Float[Array, "b t h w c"]:
        """`before` holds the frames before these, of which the last `number` are real."""
        t = z.shape[1]
        frames = z if before is None else jnp.concatenate([before, z], axis=1)
        return self.attend_last(
            frames,
            t,
            sliding_window_mask(t, frames.shape[1] - t, window=self.window, number=number),
        )


def sliding_window_mask(
    t: int, before: int, *, window: int, number: Int[Array, ""] | int
) -> Bool[Array, "t f"]:
    """Row i, which is frame `before + i`, may look at the `window` frames that end with it, but not at those in front
    of the last `number` before the first row."""
    frame, seen = before + jnp.arange(t)[:, None], jnp.arange(before + t)[None]
    is_near = (seen <= frame) & (frame < seen + window)
    return is_near & (seen >= before - number)


class TemporalDecoderLayers(nnx.Module):
    """The temporal layers of a decoder, in the order of their places; `widths` are those from place to place."""

    def __init__(self, config: TemporalDecoderConfig, widths: Sequence[int], *, keys: Keys):
        config.check(widths)
        self.layers = nnx.List(
            [WindowAttention(config, widths[place], keys=keys) for place in config.places]
        )
        self.places, self.window = config.places, config.window

    def run_blocks(
        self,
        stages: Sequence[Callable[[Array], Array]],
        z: Float[Array, "b t h w c"],
        cache: TemporalCache | None = None,
    ) -> tuple[Float[Array, "b t h2 w2 c2"], TemporalCache]:
        """Frames through the stages of a decoder, which end at place 0, 1 .., after those of the `cache`."""
        number = jnp.zeros((), jnp.int32) if cache is None else cache.frames_seen
        kept = []
        for place, stage in enumerate(stages):
            z = stage(z)
            if place not in self.places:
                continue
            which = self.places.index(place)
            before = None if cache is None else cache.states[which]
            kept.append(self._last(z, before))
            z = z + self.layers[which](z, before, number)
        return z, TemporalCache(tuple(kept), number + z.shape[1])

    def _last(
        self, z: Float[Array, "b t h w c"], before: Float[Array, "b p h w c"] | None
    ) -> Float[Array, "b p2 h w c"]:
        """What the next frames need of these and those before."""
        kept = self.window - 1
        before = jnp.zeros((z.shape[0], kept, *z.shape[2:]), z.dtype) if before is None else before
        frames = jnp.concatenate([before, z], axis=1)
        return frames[:, frames.shape[1] - kept :]
