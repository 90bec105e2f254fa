"""Where does each pixel come from? Optical flow by Lucas & Kanade (1981), coarse to fine.

    sum_window (I_x d_x + I_y d_y + I_t)^2 -> min     solved for d at each pixel; v <- v + d, a few times at each size

I: the earlier frame, warped by v so far. For frames whose neighbours differ by a few pixels, as a yardstick that needs
no learned weights; where nothing shows which way a surface goes, v stays near 0.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

GreyFrame = Float[np.ndarray, "h w"]
Flow = Float[np.ndarray, "2 h w"]

COARSEST_SIDE = 12
"""Pixels of the shorter side of the coarsest size."""
ITERATIONS = 5
WINDOW = 2.0
"""Deviation of the window, in pixels."""
REGULARISATION = 4.0
"""Square of a gradient, in levels per pixel, below which flow is held back."""
MAX_UPDATE = 1.0
"""Pixels by which one round changes the flow at most: a larger step is a guess."""


def optical_flow(earlier: GreyFrame, later: GreyFrame) -> Flow:
    """`v` along (h, w), in pixels, with later(p) = earlier(p + v)."""
    pyramid = [(earlier, later)]
    while min(pyramid[-1][0].shape) >= 2 * COARSEST_SIDE:
        earlier, later = (_half(frame) for frame in pyramid[-1])
        pyramid.append((earlier, later))
    v = np.zeros((2, *pyramid[-1][0].shape))
    for before, after in reversed(pyramid):
        v = _resized(v, after.shape)
        for _ in range(ITERATIONS):
            v = v + _step(warp(before, v), after)
            v = np.stack([gaussian_filter(component, 1.0, mode="nearest") for component in v])
    return v


def warp(frame: Float[np.ndarray, "h w *c"], v: Flow) -> Float[np.ndarray, "h w *c"]:
    """`frame` at p + v, between pixels along lines; beyond the border, the border."""
    places = np.indices(v.shape[1:]) + v
    if frame.ndim == 2:
        return map_coordinates(frame, places, order=1, mode="nearest")
    return np.stack([warp(frame[..., i], v) for i in range(frame.shape[-1])], axis=-1)


def _half(frame: GreyFrame) -> Float[np.ndarray, "h2 w2"]:
    """Every second pixel of the smoothed frame."""
    return np.asarray(
        zoom(gaussian_filter(frame, 1.0), 0.5, order=1, grid_mode=True, mode="nearest")
    )


def _step(before: GreyFrame, after: GreyFrame) -> Flow:
    """d of the equation."""
    along_h, along_w = (np.gradient((before + after) / 2, axis=axis) for axis in (0, 1))
    change = before - after

    def windowed(x: GreyFrame) -> GreyFrame:
        return gaussian_filter(x, WINDOW, mode="nearest")

    hh, ww, hw = (
        windowed(along_h**2) + REGULARISATION,
        windowed(along_w**2) + REGULARISATION,
        windowed(along_h * along_w),
    )
    h, w = windowed(along_h * change), windowed(along_w * change)
    d = np.stack([hw * w - ww * h, hw * h - hh * w]) / (hh * ww - hw**2)
    return np.clip(d, -MAX_UPDATE, MAX_UPDATE)


def _resized(v: Flow, shape: tuple[int, ...]) -> Float[np.ndarray, "2 h2 w2"]:
    """The flow of another size of the same frame."""
    scales = [new / old for new, old in zip(shape, v.shape[1:], strict=True)]
    if scales == [1, 1]:
        return v
    return np.stack(
        [
            s * zoom(x, scales, order=1, grid_mode=True, mode="nearest")
            for s, x in zip(scales, v, strict=True)
        ]
    )
