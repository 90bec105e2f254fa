"""Regions of a picture that move as one, and the motion of what lies behind them (Siarohin et al.
2104.11280, section 3; LFDM's auto-encoder).

    H = softmax over pixels (p / 0.1),   mu = sum H x,   C = sum H (x - mu)(x - mu)^T
    A = U sqrt(D),   C = U D U^T,   D descending

The root of a 2 x 2 covariance [[a, b], [b, c]] is closed: with m = (a + c) / 2, r = hypot((a - c) / 2,
b) and t = atan2(2b, a - c) / 2 its columns are sqrt(m + r) (cos t, sin t) and sqrt(m - r) (-sin t,
cos t). The root that PyTorch takes differs by a sign of columns, which every use cancels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, Linear, Padding
from magicvideo_jax.models.lfdm.flow_sampling import antialiased, pixel_grid
from magicvideo_jax.models.lfdm.hourglass import Hourglass, HourglassConfig, HourglassEncoder

_TEMPERATURE = 0.1
_LEAST_VARIANCE, _LEAST_DETERMINANT = 1e-12, 1e-20
"""Floors of what is divided by; a region of a single pixel would have neither inverse nor root."""


class Regions(NamedTuple):
    """Regions of a batch of pictures, as positions (x, y) from -1 to 1."""

    shift: Float[Array, "b k 2"]
    """Their centres mu."""
    covariance: Float[Array, "b k 2 2"]
    """Their extents C."""
    affine: Float[Array, "b k 2 2"]
    """Their roots A, the linear part of their pose."""


class RegionPredictor(nnx.Module):
    """Regions of pictures in [0, 1]."""

    def __init__(
        self,
        config: HourglassConfig,
        regions: int,
        *,
        scale: float,
        padding: Padding,
        keys: Keys,
        dtype: DTypeLike,
    ):
        self.predictor = Hourglass(config, 3, keys=keys)
        self.regions = Conv(config.outputs(3), regions, size=7, padding=padding, keys=keys)
        self.scale, self.dtype = scale, dtype

    def __call__(self, x: Float[Array, "b h w 3"]) -> Regions:
        features = self.predictor(antialiased(x, self.scale).astype(self.dtype))
        return regions_of(self.regions(features).astype(x.dtype))


def regions_of(scores: Float[Array, "b h w k"]) -> Regions:
    """Moments of the softmax of scores over pixels."""
    b, h, w, k = scores.shape
    heat = jax.nn.softmax(scores.reshape(b, h * w, k) / _TEMPERATURE, axis=1)
    grid = pixel_grid(h, w, scores.dtype).reshape(h * w, 2)
    exact = jax.lax.Precision.HIGHEST
    shift = jnp.einsum("bpk,pi->bki", heat, grid, precision=exact)
    away = grid[None, :, None] - shift[:, None]
    covariance = jnp.einsum("bpk,bpki,bpkj->bkij", heat, away, away, precision=exact)
    return Regions(shift, covariance, covariance_root(covariance))


def covariance_root(c: Float[Array, "*b 2 2"]) -> Float[Array, "*b 2 2"]:
    """A of A A^T = C, whose columns are along the axes of the ellipse, the longer first."""
    mean, off = (c[..., 0, 0] + c[..., 1, 1]) / 2, c[..., 0, 1]
    half = (c[..., 0, 0] - c[..., 1, 1]) / 2
    half = jnp.where((half == 0) & (off == 0), 1e-12, half)  # where neither has a gradient
    radius, angle = jnp.hypot(half, off), jnp.arctan2(off, half) / 2
    longer, shorter = (
        jnp.sqrt(jnp.maximum(v, _LEAST_VARIANCE)) for v in (mean + radius, mean - radius)
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = [[cos * longer, -sin * shorter], [sin * longer, cos * shorter]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def inverse_2x2(m: Float[Array, "*b 2 2"]) -> Float[Array, "*b 2 2"]:
    """Inverse of 2 x 2 matrices by their adjugates."""
    a, b, c, d = m[..., 0, 0], m[..., 0, 1], m[..., 1, 0], m[..., 1, 1]
    determinant = a * d - b * c
    is_small = jnp.abs(determinant) < _LEAST_DETERMINANT
    determinant = jnp.where(is_small, _LEAST_DETERMINANT, determinant)
    rows = [[d, -b], [-c, a]]
    return jnp.stack([jnp.stack([x / determinant for x in row], axis=-1) for row in rows], axis=-2)


def region_heat(regions: Regions, grid: Float[Array, "h w 2"]) -> Float[Array, "b h w k"]:
    """exp(-d^T C^-1 d / 2) of the distance d of each pixel from each centre."""
    d = grid[None, :, :, None] - regions.shift[:, None, None]
    inverse = inverse_2x2(regions.covariance)
    exact = jax.lax.Precision.HIGHEST
    square = jnp.einsum("bhwki,bkij,bhwkj->bhwk", d, inverse, d, precision=exact)
    return jnp.exp(-square / 2)


class BackgroundPredictor(nnx.Module):
    """Affine motion of what lies behind all regions, the identity at initialisation."""

    def __init__(self, config: HourglassConfig, *, keys: Keys, dtype: DTypeLike):
        self.encoder = HourglassEncoder(config, 6, keys=keys)
        self.fc = Linear(config.width_at(config.blocks), 6, keys=keys, zero=True)
        self.fc.bias[...] = jnp.array([1.0, 0, 0, 0, 1, 0])
        self.dtype = dtype

    def __call__(
        self, source: Float[Array, "b h w 3"], driving: Float[Array, "b h w 3"]
    ) -> Float[Array, "b 2 3"]:
        """The matrix [M | t] of the map x -> M x + t from driving to source."""
        both = jnp.concatenate([source, driving], axis=-1).astype(self.dtype)
        features = self.encoder(both)[-1].mean((1, 2)).astype(source.dtype)
        return self.fc(features).reshape(-1, 2, 3)
