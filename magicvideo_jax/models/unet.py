"""U-Net of Stable Diffusion (1.x and 2.x) and, with a `TemporalConfig`, of MagicVideo.

Without one, or with `as_images`, the frames of a clip are independent images that share their text
and time. Temporal layers are identities at initialisation, so that a video network starts as its
image network, frame by frame.
"""

from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import at_least, divides, not_empty
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.blocks import Downsampler, ResnetBlock, SpatialTransformer, Upsampler
from magicvideo_jax.models.layers import Conv, EmbeddingMLP, GroupNorm, Padding
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.parallel.constraints import shard_activations


@dataclass(frozen=True)
class UNetLevelConfig:
    """One resolution of the U-Net. `heads` = 0 means no attention."""

    width: int
    heads: int

    def __post_init__(self) -> None:
        at_least(1, self, "width")
        at_least(0, self, "heads")
        if self.heads:
            divides(self.width, self, "heads", of="the width of this level")


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a U-Net. The defaults are Stable Diffusion 1.x's."""

    levels: tuple[UNetLevelConfig, ...] = (
        UNetLevelConfig(320, 8),
        UNetLevelConfig(640, 8),
        UNetLevelConfig(1280, 8),
        UNetLevelConfig(1280, 0),
    )
    middle_heads: int = 8
    blocks: int = 2
    """Residual blocks per level on the way down. The way up has one more."""
    channels_in: int = 4
    channels_out: int = 4
    context: int = 768
    linear_projection: bool = False
    groups: int = 32
    temporal: TemporalConfig | None = None

    def __post_init__(self) -> None:
        not_empty(self, "levels")
        at_least(1, self, "blocks", "channels_in", "channels_out", "context")
        at_least(0, self, "middle_heads")
        if self.middle_heads:
            divides(self.levels[-1].width, self, "middle_heads", of="the width of the last level")
        for i, level in enumerate(self.levels):
            divides(level.width, self, "groups", of=f"levels[{i}].width")

    @property
    def embedding(self) -> int:
        return 4 * self.levels[0].width


SD1 = UNetConfig()
SD2 = UNetConfig(
    levels=(
        UNetLevelConfig(320, 5),
        UNetLevelConfig(640, 10),
        UNetLevelConfig(1280, 20),
        UNetLevelConfig(1280, 0),
    ),
    middle_heads=20,
    context=1024,
    linear_projection=True,
)

_EPS = 1e-5


class Remat(Enum):
    """Activations of a block that are kept for the backward pass. All others are recomputed."""

    NONE = "none"
    """All activations."""
    DOTS = "dots"
    """Results of matrix products."""
    FULL = "full"
    """Only the inputs of blocks: least memory, about a third more computation."""


_POLICY = {
    Remat.DOTS: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    Remat.FULL: jax.checkpoint_policies.nothing_saveable,
}


class VideoUNet(nnx.Module):
    """Denoising network eps_theta(z_t, t, text, fps).

    It computes in `dtype`; parameters, norms, softmax and embeddings are in float32.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        keys: Keys,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = Remat.NONE,
    ):
        widths = [level.width for level in config.levels]
        first, last, deepest = widths[0], widths[-1], len(widths) - 1
        self.conv_in = Conv(config.channels_in, first, keys=keys)
        self.time_embedding = EmbeddingMLP(first, config.embedding, keys=keys)
        if config.temporal:
            self.fps_embedding = EmbeddingMLP(first, config.embedding, keys=keys, zero=True)

        # Each feature map on the way down is a skip connection on the way up, in reverse order.
        skips, width = [first], first
        self.down_blocks = nnx.List([])
        for i, level in enumerate(config.levels):
            stages = [
                ResnetTransformerBlock(config, w, level.width, heads=level.heads, keys=keys)
                for w in [width] + [level.width] * (config.blocks - 1)
            ]
            resample = (
                Downsampler(level.width, padding=Padding.EVEN, keys=keys) if i < deepest else None
            )
            self.down_blocks.append(UNetLevel(stages, resample))
            skips += [level.width] * (config.blocks + (resample is not None))
            width = level.width

        self.mid_block = UNetLevel(
            [
                ResnetTransformerBlock(config, last, last, heads=h, keys=keys)
                for h in (config.middle_heads, 0)
            ]
        )

        self.up_blocks = nnx.List([])
        for i, level in reversed(list(enumerate(config.levels))):
            stages = []
            for _ in range(config.blocks + 1):
                stages.append(
                    ResnetTransformerBlock(
                        config, width + skips.pop(), level.width, heads=level.heads, keys=keys
                    )
                )
                width = level.width
            self.up_blocks.append(UNetLevel(stages, Upsampler(width, keys=keys) if i > 0 else None))

        self.conv_norm_out = GroupNorm(first, groups=config.groups, eps=_EPS)
        self.conv_out = Conv(first, config.channels_out, keys=keys, zero=True)
        self.dtype, self.remat = dtype, remat

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        text: Float[Array, "b l d"],
        fps: Float[Array, "b"] | None = None,
        *,
        as_images: bool = False,
    ) -> Float[Array, "b t h w c2"]:
        emb = self.time_embedding(time)
        if fps is not None and hasattr(self, "fps_embedding") and not as_images:
            emb = emb + self.fps_embedding(fps)
        # SiLU is applied once here instead of in each block before its projection.
        emb, text = jax.nn.silu(emb)[:, None].astype(self.dtype), text.astype(self.dtype)

        def run(stage: ResnetTransformerBlock, h: Float[Array, "..."]) -> Float[Array, "..."]:
            def forward(*inputs: Float[Array, "..."]) -> Float[Array, "..."]:
                return shard_activations(stage(*inputs, as_images=as_images))

            if self.remat is Remat.NONE:
                return forward(h, emb, text)
            return jax.checkpoint(forward, policy=_POLICY[self.remat])(h, emb, text)

        h = self.conv_in(shard_activations(z).astype(self.dtype))
        skips = [h]
        for block in self.down_blocks:
            for stage in block.stages:
                h = run(stage, h)
                skips.append(h)
            if hasattr(block, "resample"):
                h = block.resample(h)
                skips.append(h)
        for stage in self.mid_block.stages:
            h = run(stage, h)
        for block in self.up_blocks:
            for stage in block.stages:
                h = run(stage, jnp.concatenate([h, skips.pop()], axis=-1))
            if hasattr(block, "resample"):
                h = block.resample(h, skips[-1].shape[-3:-1])
        return self.conv_out(jax.nn.silu(self.conv_norm_out(h))).astype(jnp.float32)


class UNetLevel(nnx.Module):
    """Blocks at one resolution, and the resampling to the next."""

    def __init__(
        self,
        stages: list["ResnetTransformerBlock"],
        resample: Downsampler | Upsampler | None = None,
    ):
        self.stages = nnx.List(stages)
        if resample is not None:
            self.resample = resample


class ResnetTransformerBlock(nnx.Module):
    """Residual block and, with `heads`, a spatial transformer."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, *, heads: int, keys: Keys):
        self.resnet = ResnetBlock(
            inputs,
            outputs,
            groups=config.groups,
            eps=_EPS,
            keys=keys,
            embedding=config.embedding,
            temporal=config.temporal,
        )
        if heads:
            self.transformer = SpatialTransformer(
                outputs,
                heads=heads,
                context=config.context,
                groups=config.groups,
                linear_projection=config.linear_projection,
                keys=keys,
                temporal=config.temporal,
            )

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        emb: Float[Array, "b 1 d"],
        text: Float[Array, "b l d2"],
        *,
        as_images: bool,
    ) -> Float[Array, "b t h w c2"]:
        z = self.resnet(z, emb, as_images=as_images)
        return self.transformer(z, text, as_images=as_images) if hasattr(self, "transformer") else z
