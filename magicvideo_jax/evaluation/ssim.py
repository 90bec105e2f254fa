"""Structural similarity of frames (Wang et al. 2004, eq. 13).

    SSIM(x, y) = (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2))

Means m, variances s^2 and the covariance s_xy are weighted by a Gaussian window (standard
deviation 1.5, 11 x 11 pixels) around each pixel and channel, with mirror padding; c_1 = (0.01 *
255)^2, c_2 = (0.03 * 255)^2.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

from magicvideo_jax.core.types import Clips

WINDOW_RADIUS, WINDOW_STD = 5, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(decoded: Clips, source: Clips) -> Float[np.ndarray, "b"]:
    """Mean SSIM of each clip: 1 for equal clips."""
    x, y = decoded.astype(np.float64), source.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    alike /= (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    return alike.mean(axis=(1, 2, 3, 4))


def _windowed(x: Float[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b t h w c"]:
    """Means weighted by the window around each pixel."""
    weights = np.exp(-0.5 * (np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1) / WINDOW_STD) ** 2)
    weights /= weights.sum()
    for axis in (2, 3):
        x = correlate1d(x, weights, axis=axis, mode="mirror")
    return x
