"""Random changes of brightness, contrast, saturation and hue, the same in all frames of a clip.

Each but the hue blends a picture with another: black, its mean grey, its own greys. The hue turns
colours about the axis of greys (YIQ).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from magicvideo_jax.core.checks import at_least, share
from magicvideo_jax.core.keys import subkey

_Pictures = Float[Array, "t h w 3"]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class ColourJitterConfig:
    """Spans of the changes: factors are uniform in 1 - span .. 1 + span, the hue in -span .. span of
    a turn. Zeros change nothing."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    shuffles: bool = False
    """Whether the changes come in a random order, or in that of these fields."""

    def __post_init__(self) -> None:
        share(self, "brightness", "contrast", "saturation")
        at_least(0, self, "hue")

    @property
    def is_on(self) -> bool:
        """Whether anything changes."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def jittered(
    key: PRNGKeyArray, clips: Float[Array, "b t h w 3"], config: ColourJitterConfig
) -> Float[Array, "b t h w 3"]:
    """Clips in [0, 1], each changed in its own way."""
    if not config.is_on:
        return clips
    spans = jnp.array([config.brightness, config.contrast, config.saturation, config.hue])

    def one(key: PRNGKeyArray, clip: _Pictures) -> _Pictures:
        drawn = spans * jax.random.uniform(subkey(key, "spans"), (4,), minval=-1, maxval=1)
        order = jnp.arange(4)
        if config.shuffles:
            order = jax.random.permutation(subkey(key, "order"), 4)
        for i in range(4):
            clip = jax.lax.switch(order[i], _CHANGES, clip, drawn[order[i]])
        return clip

    return jax.vmap(one)(jax.random.split(key, len(clips)), clips)


def _blended(clip: _Pictures, other: Array, factor: Array) -> _Pictures:
    other = jnp.broadcast_to(other, clip.shape)
    return jnp.clip(other + (1 + factor) * (clip - other), 0, 1)


def _brightness(clip: _Pictures, by: Array) -> _Pictures:
    return _blended(clip, jnp.zeros((1, 1, 1, 1)), by)


def _contrast(clip: _Pictures, by: Array) -> _Pictures:
    return _blended(clip, _grey(clip).mean((1, 2, 3), keepdims=True), by)


def _saturation(clip: _Pictures, by: Array) -> _Pictures:
    return _blended(clip, _grey(clip), by)


def _hue(clip: _Pictures, by: Array) -> _Pictures:
    cos, sin = jnp.cos(2 * jnp.pi * by), jnp.sin(2 * jnp.pi * by)
    turn = jnp.eye(3).at[1:, 1:].set(jnp.array([[cos, -sin], [sin, cos]]))
    to_yiq, to_rgb = (jnp.asarray(m, jnp.float32) for m in (_TO_YIQ, np.linalg.inv(_TO_YIQ)))
    return jnp.clip(jnp.einsum("ij,thwj->thwi", to_rgb @ turn @ to_yiq, clip), 0, 1)


def _grey(clip: _Pictures) -> Float[Array, "t h w 1"]:
    return jnp.einsum("thwc,c->thw", clip, jnp.asarray(_GREY))[..., None]


_CHANGES: tuple[Callable[[_Pictures, Array], _Pictures], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _hue,
)
