"""Equivariance of regions: those of a warped frame are the warped regions (Siarohin et al. 2104.11280,
section 3.4; First Order Motion Model 2003.00196, eq. 10 to 12).

    W(p) = M p + t + sum_j u_j r_j^2 log(r_j + 1e-6),   r_j = |p - c_j|_1         c: a grid of 5 x 5
    L_shift  = mean |mu_D - W(mu_T)|
    L_affine = mean |1 - s V|,   V = A_D^-1 J_W(mu_T) A_T,   s = sgn(V_00)

D is a frame and T the same frame sampled at W.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from magicvideo_jax.core.keys import subkey
from magicvideo_jax.models.lfdm.flow_sampling import Beyond, pixel_grid, sample_at
from magicvideo_jax.models.lfdm.regions import Regions, inverse_2x2

_CONTROL_SIDE = 5


class RandomWarp(NamedTuple):
    """Affine maps and bends of the plane, one for each picture."""

    affine: Float[Array, "b 2 3"]
    """[M | t]."""
    bends: Float[Array, "b c"]
    """u, the same for x and y."""


def draw_warp(key: PRNGKeyArray, number: int, *, affine: float, bends: float) -> RandomWarp:
    """Warps near the identity; both numbers are standard deviations."""
    noise = jax.random.normal(subkey(key, "affine"), (number, 2, 3))
    bent = jax.random.normal(subkey(key, "bends"), (number, _CONTROL_SIDE**2))
    return RandomWarp(jnp.eye(2, 3)[None] + affine * noise, bends * bent)


def warp_points(warp: RandomWarp, points: Float[Array, "b n 2"]) -> Float[Array, "b n 2"]:
    """W of points (x, y)."""
    return jax.vmap(lambda one, some: jax.vmap(lambda p: _warped(one, p))(some))(warp, points)


def warp_pictures(warp: RandomWarp, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Pictures sampled at W, mirrored beyond their edges."""
    b, h, w, _ = pictures.shape
    grid = pixel_grid(h, w, pictures.dtype).reshape(1, h * w, 2)
    at = warp_points(warp, jnp.broadcast_to(grid, (b, h * w, 2)))
    return sample_at(pictures, at.reshape(b, h, w, 2), Beyond.REFLECTION)


def equivariance_losses(
    warp: RandomWarp, of_frame: Regions, of_warped: Regions
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_shift and L_affine."""

    def jacobians(one: RandomWarp, points: Float[Array, "k 2"]) -> Float[Array, "k 2 2"]:
        return jax.vmap(jax.jacfwd(lambda p: _warped(one, p)))(points)

    moved = warp_points(warp, of_warped.shift)
    pose = jax.vmap(jacobians)(warp, of_warped.shift) @ of_warped.affine
    value = inverse_2x2(of_frame.affine) @ pose
    value = value * jnp.sign(value[..., :1, :1])
    identity = jnp.eye(2, dtype=value.dtype)[None, None]
    return jnp.abs(of_frame.shift - moved).mean(), jnp.abs(identity - value).mean()


def _warped(warp: RandomWarp, point: Float[Array, "2"]) -> Float[Array, "2"]:
    """W of one point, for one warp."""
    centres = pixel_grid(_CONTROL_SIDE, _CONTROL_SIDE, point.dtype).reshape(-1, 2)
    r = jnp.abs(point[None] - centres).sum(-1)
    bend = (warp.bends * r**2 * jnp.log(r + 1e-6)).sum()
    return warp.affine[:, :2] @ point + warp.affine[:, 2] + bend
