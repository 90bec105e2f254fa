"""Small layers over the frames of a clip: MagicVideo's adaptor, Latent-Shift's shift, LaVie's
choice of frames.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.frame_tables import ReadsFrameTables
from magicvideo_jax.models.rows import broadcast_pixels
from magicvideo_jax.parallel.constraints import gather_parameter


class FrameAdaptor(ReadsFrameTables):
    """Learned scale and shift of the channels for each frame of a clip (MagicVideo 2211.11018,
    section 3), z^i (1 + S^i) + B^i; the identity at initialisation.
    """

    def __init__(self, frames: int, channels: int):
        self.scale, self.shift = (
            nnx.Param(jnp.zeros((frames, channels))),
            nnx.Param(jnp.zeros((frames, channels))),
        )

    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        b, t, *_, c = z.shape

        def broadcast(table: Float[Array, "f c"]) -> Float[Array, "b t h w c"]:
            rows = jnp.broadcast_to(self.rows(gather_parameter(table), t)[None], (b, t, c))
            return broadcast_pixels(rows, z)

        # In float32, because bfloat16 cannot represent changes of a scale near 1 that are below
        # 0.4 %.
        y = z.astype(jnp.float32) * (1 + broadcast(self.scale[...])) + broadcast(self.shift[...])
        return y.astype(z.dtype)


class TemporalShift(nnx.Module):
    """Frames whose first third of the channels is that of frame i-1 and whose last third is that
    of frame i+1, with zeros beyond the ends (Latent-Shift 2304.08477, figure of the shift).

    The middle third has the channels that are left over where 3 does not divide their number.
    """

    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        third = z.shape[-1] // 3
        past, present, future = jnp.split(z, [third, z.shape[-1] - third], axis=-1)
        past = jnp.pad(past[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        future = jnp.pad(future[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([past, present, future], axis=-1)


class FirstAndPreviousFrame(nnx.Module):
    """Keys or values of frame i: those of frame 0, then those of frame max(i-1, 0).

    Self-attention of LaVie's interpolation network, which attends to them and not to frame i.
    """

    def __call__(self, y: Float[Array, "b t m n d"]) -> Float[Array, "b t m2 n d"]:
        first = jnp.broadcast_to(y[:, :1], y.shape)
        previous = jnp.concatenate([y[:, :1], y[:, :-1]], axis=1)
        return jnp.concatenate([first, previous], axis=2)
