"""AnimateDiff's motion module (Guo et al. 2307.04725): a transformer over the frames of each pixel.

    y = proj_in(norm(z));   y += attn_k(norm_k(y) + PE), k = 1, 2;   y += ff(norm_3(y));   z + proj_out(y)
    PE[p, 2i] = sin(p 10000^(-2i/c)),   PE[p, 2i+1] = cos(the same)

Attribute names are those of diffusers' MotionAdapter.
"""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from magicvideo_jax.models.blocks import Attention, FeedForward
from magicvideo_jax.models.frame_tables import ReadsFrameTables
from magicvideo_jax.models.frame_windows import over_windows
from magicvideo_jax.models.layers import GroupNorm, LayerNorm, Linear
from magicvideo_jax.models.temporal import MotionModuleConfig
from magicvideo_jax.models.temporal_places import Site
from magicvideo_jax.parallel.constraints import shard_activations


class MotionModule(nnx.Module):
    """Transformer over at most `frames` frames, or over any number in windows of
    `config.attention_window`, added to its input; the identity at initialisation.
    """

    def __init__(self, config: MotionModuleConfig, site: Site, *, frames: int):
        channels, keys = site.channels, site.keys
        self.norm = GroupNorm(
            channels, groups=site.groups, eps=1e-6, over_frames=config.norm_over_frames
        )
        self.proj_in = Linear(channels, channels, keys=keys)
        self.transformer_blocks = nnx.List(
            [MotionTransformerBlock(config, channels, frames=frames, site=site)]
        )
        self.proj_out = Linear(channels, channels, keys=keys, zero=True)

    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        # Pixels are one axis while sharding moves from frames to pixels, as in temporal attention.
        flat = shard_activations(rearrange(self.norm(z), "b t h w c -> b t (h w) c"))
        y = self.proj_in(shard_activations(rearrange(flat, "b t p c -> b p t c")))
        for block in self.transformer_blocks:
            y = block(y)
        y = shard_activations(self.proj_out(y))
        return z + shard_activations(rearrange(y, "b p t c -> b t p c")).reshape(z.shape)


class MotionTransformerBlock(ReadsFrameTables):
    """Two self-attentions over frames and a feed-forward, as pre-norm residuals."""

    def __init__(self, config: MotionModuleConfig, channels: int, *, frames: int, site: Site):
        keys = site.keys
        self.norm1, self.norm2, self.norm3 = (LayerNorm(channels) for _ in range(3))
        self.attn1 = Attention(channels, heads=config.heads, keys=keys)
        self.attn2 = Attention(channels, heads=config.heads, keys=keys)
        self.ff = FeedForward(channels, keys=keys)
        self.frames, self.window = frames, config.attention_window

    def __call__(self, y: Float[Array, "b p t c"]) -> Float[Array, "b p t c"]:
        y = over_windows(self._attend, y, context=self.window)
        return y + self.ff(self.norm3(y))

    def _attend(self, y: Float[Array, "b p t c"]) -> Float[Array, "b p t c"]:
        """Both self-attentions, as residuals; positions count from the first of these frames."""
        t, c = y.shape[-2:]
        if t > self.frames:
            raise ValueError(f"{t} frames, and motion modules with {self.frames} positions")
        table = jnp.asarray(sinusoidal_positions(self.frames, c), y.dtype)
        positions = jnp.broadcast_to(self.rows(table, t), y.shape)
        y = y + self.attn1(self.norm1(y) + positions)
        return y + self.attn2(self.norm2(y) + positions)


def sinusoidal_positions(frames: int, channels: int) -> Float[np.ndarray, "t c"]:
    """Sinusoidal positional encoding (Vaswani et al. 1706.03762, section 3.5), sine and cosine
    interleaved."""
    angles = np.arange(frames)[:, None] * 10_000.0 ** (-np.arange(0, channels, 2) / channels)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(frames, -1)[:, :channels]
