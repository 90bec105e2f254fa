"""Images sampled at positions, and maps resized: the two conventions of LFDM's auto-encoder.

    grid     x_j = 2 j / (w - 1) - 1                   corners at the centres of pixels
    sample   p_x = ((g_x + 1) w - 1) / 2               corners at the edges of pixels
    band     (1/s)-th rows of a Gaussian blur, sigma = (1/s - 1) / 2

A grid is therefore no identity when it is sampled at: published weights have learned both.
Positions are (x, y), the order of the files; backward flow is an absolute position in the source.
"""

from enum import Enum

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

Positions = Float[Array, "b h w 2"]


class Beyond(Enum):
    """What stands beyond the edges of a sampled image."""

    ZEROS = "zeros"
    REFLECTION = "reflection"
    """The image, mirrored at the edges of its outer pixels."""


def pixel_grid(h: int, w: int, dtype: DTypeLike = jnp.float32) -> Float[Array, "h w 2"]:
    """Position (x, y) of every pixel, from -1 to 1."""
    x, y = (2 * jnp.arange(n, dtype=dtype) / (n - 1) - 1 for n in (w, h))
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def sample_at(
    image: Float[Array, "b h w c"],
    positions: Float[Array, "b h2 w2 2"],
    beyond: Beyond = Beyond.ZEROS,
) -> Float[Array, "b h2 w2 c"]:
    """Bilinear samples of images at positions."""
    b, h, w, c = image.shape
    size = jnp.array([w, h], positions.dtype)[None, None, None]
    at = ((positions + 1) * size - 1) / 2
    if beyond is Beyond.REFLECTION:
        at = _reflected(at, size)
    low = jnp.floor(at)
    share = at - low
    pixels, column, row = image.reshape(b, h * w, c), *_split(low.astype(jnp.int32))

    def corner(dx: int, dy: int) -> Float[Array, "b h2 w2 c"]:
        x, y = column + dx, row + dy
        is_inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        index = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
        taken = jnp.take_along_axis(pixels, index.reshape(b, -1, 1), axis=1)
        weight = (share if dx else 1 - share)[..., 0] * (share if dy else 1 - share)[..., 1]
        weight = jnp.where(is_inside, weight, 0).astype(image.dtype)
        return taken.reshape(*index.shape, c) * weight[..., None]

    return corner(0, 0) + corner(1, 0) + corner(0, 1) + corner(1, 1)


def resize_map(x: Float[Array, "b h w c"], h: int, w: int) -> Float[Array, "b h2 w2 c"]:
    """Bilinear resizing of a flow or an occlusion; the values of a flow stay as they are."""
    if x.shape[1:3] == (h, w):
        return x
    shape = (x.shape[0], h, w, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def antialiased(x: Float[Array, "b h w c"], scale: float) -> Float[Array, "b h2 w2 c"]:
    """Images blurred by a Gaussian, of which every (1 / scale)-th row and column is kept."""
    if scale == 1:
        return x
    rows, columns = (jnp.asarray(_band(n, scale), x.dtype) for n in x.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=exact)


def gaussian(scale: float) -> Float[np.ndarray, "k"]:
    """The blur's kernel along one axis, which sums to one."""
    sigma = (1 / scale - 1) / 2
    at = np.arange(2 * round(4 * sigma) + 1) - round(4 * sigma)
    kernel = np.exp(-(at**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _band(size: int, scale: float) -> Float[np.ndarray, "i h"]:
    """Blur with zeros beyond the edges, and choice of rows, as one matrix."""
    kernel, every = gaussian(scale), round(1 / scale)
    centre = np.arange(0, size, every)[:, None]
    at = np.arange(size)[None] - centre + len(kernel) // 2
    return np.where((at >= 0) & (at < len(kernel)), kernel[np.clip(at, 0, len(kernel) - 1)], 0)


def _reflected(at: Positions, size: Float[Array, "1 1 1 2"]) -> Positions:
    """Positions in pixels, reflected about -1/2 and size - 1/2, then clipped to pixel centres."""
    folded = jnp.abs(at + 0.5) % (2 * size)
    return jnp.clip(jnp.minimum(folded, 2 * size - folded) - 0.5, 0, size - 1)


def _split(at: Int[Array, "b h w 2"]) -> tuple[Int[Array, "b h w"], Int[Array, "b h w"]]:
    return at[..., 0], at[..., 1]
