"""Resizing of frames as the published metrics have it, each its own way.

    source(i) = i n / m                     `resize_tf1`: TensorFlow 1's, which shifts a picture by half a pixel
    source(i) = (i + 1/2) n / m - 1/2       `resize_half_pixel`: PyTorch's and TensorFlow 2's
    source(i) = i (n - 1) / (m - 1)         `resize_corners`: corners on corners, as C3D's frames have it

i: place in the output of m pixels, source(i): in the input of n. Values lie linearly between the two nearest, and
nothing is smoothed before pixels are left out.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Frames = Float[Array, "*b h w c"]
Resized = Float[Array, "*b h2 w2 c"]


def resize_tf1(x: Frames, height: int, width: int) -> Resized:
    """TensorFlow 1's `resize_bilinear`, to the float32 rounding of its places."""
    return _resize(x, [_scaled(n, m) for n, m in _sides(x, height, width)])


def resize_half_pixel(x: Frames, height: int, width: int) -> Resized:
    """PyTorch's `interpolate(mode="bilinear", align_corners=False, antialias=False)`."""
    places = []
    for n, m in _sides(x, height, width):
        scale = np.float32(n / m)
        half = np.float32(0.5)
        places.append(np.maximum((np.arange(m, dtype=np.float32) + half) * scale - half, 0))
    return _resize(x, places)


def resize_corners(x: Frames, height: int, width: int) -> Resized:
    """Bilinear resizing that keeps the corner pixels."""
    places = [
        np.arange(m, dtype=np.float32) * np.float32((n - 1) / max(m - 1, 1))
        for n, m in _sides(x, height, width)
    ]
    return _resize(x, places)


def c3d_frames(
    x: Float[Array, "b t h w 3"], mean: Float[Array, "t 128 171 3"]
) -> Float[Array, "b t 112 112 3"]:
    """What C3D is shown of RGB clips in [-1, 1]: blue first, times 128, minus the mean of its training clips.

    `mean` is what TGANv2's `mean2.npz` holds, blue first, with channels last; of its 128 x 171 pixels the rows and
    columns 8 to 119 count, as there.
    """
    frames = resize_corners(x[..., ::-1] * 128, 112, 112)
    offset = 128 - mean[:, 8:120, 8:120]
    return frames + jnp.broadcast_to(offset[None], frames.shape)


def _scaled(n: int, m: int) -> np.ndarray:
    return np.arange(m, dtype=np.float32) * np.float32(n / m)


def _sides(x: Frames, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (x.shape[-3], height), (x.shape[-2], width)


def _resize(x: Frames, places: list[np.ndarray]) -> Resized:
    """Interpolate along w, then h, at these places along (h, w)."""
    for axis, place in ((-2, places[1]), (-3, places[0])):
        last = x.shape[axis] - 1
        before = np.minimum(place.astype(np.int32), last)
        share = (place - before.astype(np.float32)).reshape(-1, *[1] * (-1 - axis))
        low = jnp.take(x, before, axis=axis)
        high = jnp.take(x, np.minimum(before + 1, last), axis=axis)
        x = low + (high - low) * jnp.broadcast_to(share, low.shape)
    return x
