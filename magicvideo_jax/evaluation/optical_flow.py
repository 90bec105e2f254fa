"""Optical flow by Lucas & Kanade (1981), coarse to fine, without learned weights.

    sum_window (I_x d_x + I_y d_y + I_t)^2 -> min     solved for d at each pixel; v <- v + d, repeated at each scale

I is the earlier frame, warped by the current v. Motion of a few pixels per frame is recovered; v
stays near 0 where gradients do not determine it. Metrics based on it are not comparable with
published ones that use learned flow.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

GreyFrame = Float[np.ndarray, "h w"]
Flow = Float[np.ndarray, "2 h w"]

COARSEST_SIDE = 12
"""Minimum shorter side of the coarsest scale, in pixels."""
ITERATIONS = 5
"""Updates per scale."""
WINDOW = 2.0
"""Standard deviation of the Gaussian window, in pixels."""
REGULARISATION = 4.0
"""Added to the squared gradients, in (levels per pixel)^2: smaller gradients have little
influence."""
MAX_UPDATE = 1.0
"""Bound on each update, in pixels, beyond which the linearisation is not valid."""


def optical_flow(earlier: GreyFrame, later: GreyFrame) -> Flow:
    """Flow v along (h, w), in pixels, such that later(p) = earlier(p + v)."""
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
    """Frame at p + v, with bilinear interpolation and edge padding."""
    positions = np.indices(v.shape[1:]) + v
    if frame.ndim == 2:
        return map_coordinates(frame, positions, order=1, mode="nearest")
    return np.stack([warp(frame[..., i], v) for i in range(frame.shape[-1])], axis=-1)


def _half(frame: GreyFrame) -> Float[np.ndarray, "h2 w2"]:
    """Smoothed frame at half the resolution."""
    return np.asarray(
        zoom(gaussian_filter(frame, 1.0), 0.5, order=1, grid_mode=True, mode="nearest")
    )


def _step(before: GreyFrame, after: GreyFrame) -> Flow:
    """Update d that minimises the equation."""
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
    """Flow at another resolution of the same frame."""
    scales = [new / old for new, old in zip(shape, v.shape[1:], strict=True)]
    if scales == [1, 1]:
        return v
    return np.stack(
        [
            s * zoom(x, scales, order=1, grid_mode=True, mode="nearest")
            for s, x in zip(scales, v, strict=True)
        ]
    )
