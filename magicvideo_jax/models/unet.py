"""U-Net of Stable Diffusion (1.x, 2.x and the x4 upscaler) and, with a `TemporalConfig`, of
MagicVideo, LaVie and AnimateDiff.

Without one the frames of a clip are independent images that share their text and time. Temporal
layers are identities at initialisation, so that a video network starts as its image network, frame
by frame; only norms over frames (`TemporalConfig.norm_over_frames`) change it at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import at_least, divides, not_empty
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.blocks import Downsampler, ResnetBlock, SpatialTransformer, Upsampler
from magicvideo_jax.models.frame_tables import set_first_frame
from magicvideo_jax.models.layers import Conv, Embedding, EmbeddingMLP, GroupNorm, Padding
from magicvideo_jax.models.remat import Remat, rematerialised
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.temporal_layers import temporal_layers
from magicvideo_jax.models.temporal_places import Place, Site, TemporalLayer, WithPlaces
from magicvideo_jax.parallel.constraints import shard_activations


@dataclass(frozen=True)
class UNetLevelConfig:
    """One resolution of the U-Net. `heads` = 0 means no attention."""

    width: int
    heads: int
    text_only: bool = False
    """Whether a second cross-attention to the text takes the place of self-attention."""

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
    noise_levels: int = 0
    """Number of levels of noise in what the network is given beside its latents (the x4 upscaler's
    1,000); each has an embedding. 0: the network is given none."""
    guidance_channels: int = 0
    """Sinusoids of the scale of guidance, which a network that was distilled with guidance in it
    (Meng et al. 2210.03142; diffusers' `time_cond_proj_dim`) adds to its time embedding. 0: none."""
    temporal: TemporalConfig | None = None

    def __post_init__(self) -> None:
        not_empty(self, "levels")
        at_least(1, self, "blocks", "channels_in", "channels_out", "context")
        at_least(0, self, "middle_heads", "noise_levels", "guidance_channels")
        if self.middle_heads:
            divides(self.levels[-1].width, self, "middle_heads", of="the width of the last level")
        for i, level in enumerate(self.levels):
            divides(level.width, self, "groups", of=f"levels[{i}].width")

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told the scale of guidance, and needs no second pass for it."""
        return self.guidance_channels > 0

    @property
    def embedding(self) -> int:
        return 4 * self.levels[0].width

    @property
    def stride(self) -> int:
        """Latents along h or w for each one of the deepest level."""
        return 2 ** (len(self.levels) - 1)


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
SD_X4 = UNetConfig(
    levels=(
        UNetLevelConfig(256, 0),
        UNetLevelConfig(512, 8, text_only=True),
        UNetLevelConfig(512, 8, text_only=True),
        UNetLevelConfig(1024, 8),
    ),
    context=1024,
    channels_in=7,
    linear_projection=True,
    noise_levels=1000,
)
"""Stable Diffusion's x4 upscaler."""

_EPS = 1e-5


class VideoUNet(nnx.Module):
    """Denoising network eps_theta(z_t, t, text, fps).

    It computes in `dtype`; parameters, norms, softmax and embeddings are in float32. With
    `text_by_frame` each frame attends to the text by itself.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        keys: Keys,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = Remat.NONE,
        text_by_frame: bool = False,
    ):
        widths = [level.width for level in config.levels]
        first, last, deepest = widths[0], widths[-1], len(widths) - 1
        temporal, layers = config.temporal, temporal_layers(config.temporal)
        block = partial(
            ResnetTransformerBlock, config, layers=layers, keys=keys, text_by_frame=text_by_frame
        )
        self.conv_in = Conv(config.channels_in, first, keys=keys)
        if temporal and temporal.known_frames:
            # A `conv_in` of more channels in two parts: without known frames the second adds zeros.
            known = config.channels_out + 1
            self.known_frames = Conv(known, first, keys=keys, bias=False, zero=True)
        self.time_embedding = EmbeddingMLP(
            first, config.embedding, keys=keys, condition=config.guidance_channels
        )
        if config.noise_levels:
            self.class_embedding = Embedding(
                config.noise_levels, config.embedding, keys=keys, std=0.02
            )
        if temporal and temporal.fps:
            self.fps_embedding = EmbeddingMLP(first, config.embedding, keys=keys, zero=True)

        # Each feature map on the way down is a skip connection on the way up, in reverse order.
        skips, width = [first], first
        self.down_blocks = nnx.List([])
        for i, level in enumerate(config.levels):
            stages = [block(w, level) for w in [width] + [level.width] * (config.blocks - 1)]
            resample = (
                Downsampler(level.width, padding=Padding.EVEN, keys=keys) if i < deepest else None
            )
            self.down_blocks.append(UNetLevel(config, stages, resample, layers=layers, keys=keys))
            skips += [level.width] * (config.blocks + (resample is not None))
            width = level.width

        middle = UNetLevelConfig(last, config.middle_heads)
        self.mid_block = UNetLevel(
            config,
            [
                block(last, middle, place=Place.MIDDLE_BLOCK),
                block(last, UNetLevelConfig(last, 0), place=None),
            ],
            layers=layers,
            keys=keys,
        )

        self.up_blocks = nnx.List([])
        for i, level in reversed(list(enumerate(config.levels))):
            stages = []
            for _ in range(config.blocks + 1):
                inputs = width + skips.pop()
                stages.append(block(inputs, level))
                width = level.width
            resample = Upsampler(width, keys=keys) if i > 0 else None
            self.up_blocks.append(UNetLevel(config, stages, resample, layers=layers, keys=keys))

        self.conv_norm_out = GroupNorm(
            first, groups=config.groups, eps=_EPS, over_frames=_norms_over_frames(config)
        )
        self.conv_out = Conv(first, config.channels_out, keys=keys, zero=True)
        self.dtype, self.remat = dtype, remat
        self.guidance_channels, self.channels_in = config.guidance_channels, config.channels_in

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        text: Float[Array, "b l d"],
        fps: Float[Array, "b"] | None = None,
        noise_level: Int[Array, "b"] | None = None,
        guidance: Float[Array, "b"] | None = None,
    ) -> Float[Array, "b t h w c2"]:
        return self.reusing(z, time, text, fps, noise_level, guidance)[0]

    def from_frame(self, first: Int[Array, ""]) -> "VideoUNet":
        """This network for a part of a clip that begins at frame `first`: its tables are read from there."""
        set_first_frame(self, first)
        return self

    def reusing(
        self,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        text: Float[Array, "b l d"],
        fps: Float[Array, "b"] | None = None,
        noise_level: Int[Array, "b"] | None = None,
        guidance: Float[Array, "b"] | None = None,
        deep: Float[Array, "b t h w c3"] | None = None,
    ) -> tuple[Float[Array, "b t h w c2"], Float[Array, "b t h w c3"]]:
        """The output, and the features below the first level as the last block receives them.

        With those of another step as `deep`, only the first level is evaluated. A network of
        `known_frames` may read `channels_out + 1` channels more, beside `z`.
        """
        embedded_guidance = None
        if guidance is not None:
            embedded_guidance = guidance_sinusoids(guidance, self.guidance_channels)
        emb = self.time_embedding(time, embedded_guidance)
        if fps is not None and hasattr(self, "fps_embedding"):
            emb = emb + self.fps_embedding(fps)
        if noise_level is not None:
            emb = emb + self.class_embedding(noise_level)
        # SiLU is applied once here instead of in each block before its projection.
        emb, text = jax.nn.silu(emb)[:, None].astype(self.dtype), text.astype(self.dtype)

        def run(stage: ResnetTransformerBlock, h: Float[Array, "..."]) -> Float[Array, "..."]:
            def forward(*inputs: Float[Array, "..."]) -> Float[Array, "..."]:
                return shard_activations(stage(*inputs))

            return rematerialised(forward, self.remat)(h, emb, text)

        z = shard_activations(z).astype(self.dtype)
        h = self.conv_in(z[..., : self.channels_in])
        if z.shape[-1] > self.channels_in:
            h = h + self.known_frames(z[..., self.channels_in :])
        skips = [h]

        def down(block: Any, h: Float[Array, "..."]) -> Float[Array, "..."]:
            for stage in block.stages:
                h = run(stage, h)
                skips.append(h)
            return h

        def to_next_level(block: Any, h: Float[Array, "..."]) -> Float[Array, "..."]:
            if hasattr(block, "resample"):
                h = block.resample(h)
                skips.append(h)
            return block.at(Place.LEVEL, h, emb)

        def up(block: Any, h: Float[Array, "..."]) -> Float[Array, "..."]:
            for stage in block.stages:
                h = run(stage, jnp.concatenate([h, skips.pop()], axis=-1))
            if hasattr(block, "resample"):
                h = block.resample(h, skips[-1].shape[-3:-1])
            return block.at(Place.LEVEL, h, emb)

        h = down(self.down_blocks[0], skips[0])
        if deep is None:
            h = to_next_level(self.down_blocks[0], h)
            for block in self.down_blocks[1:]:
                h = to_next_level(block, down(block, h))
            for stage in self.mid_block.stages:
                h = run(stage, h)
            deep = self.mid_block.at(Place.LEVEL, h, emb)
            for block in self.up_blocks[:-1]:
                deep = up(block, deep)
        h = up(self.up_blocks[-1], deep)
        return self.conv_out(self.conv_norm_out(h, jax.nn.silu)).astype(jnp.float32), deep


def guidance_sinusoids(scale: Float[Array, "b"], width: int) -> Float[Array, "b d"]:
    """Embedding of a scale of guidance w, as latent consistency models have it (Luo et al.
    2310.04378).

    [sin(v w_i), cos(v w_i)],   v = 1000 (w - 1),   w_i = 10000^(-i / (d/2 - 1))
    """
    half = width // 2
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1))
    angle = 1000 * (scale.astype(jnp.float32) - 1)[:, None] * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class UNetLevel(WithPlaces):
    """Blocks at one resolution, and the resampling to the next."""

    def __init__(
        self,
        config: UNetConfig,
        stages: list["ResnetTransformerBlock"],
        resample: Downsampler | Upsampler | None = None,
        *,
        layers: Sequence[TemporalLayer],
        keys: Keys,
    ):
        self.stages = nnx.List(stages)
        if resample is not None:
            self.resample = resample
        site = Site(stages[-1].width, 0, config.groups, config.embedding, keys)
        self.insert(layers, site, Place.LEVEL)


class ResnetTransformerBlock(WithPlaces):
    """Residual block and, where the level has heads, a spatial transformer."""

    def __init__(
        self,
        config: UNetConfig,
        inputs: int,
        level: UNetLevelConfig,
        *,
        layers: Sequence[TemporalLayer],
        keys: Keys,
        text_by_frame: bool = False,
        place: Place | None = Place.BLOCK,
    ):
        """`place` is what the end of this block is called; None: no layer stands there."""
        self.resnet = ResnetBlock(
            inputs,
            level.width,
            groups=config.groups,
            eps=_EPS,
            keys=keys,
            embedding=config.embedding,
            layers=layers,
            norm_over_frames=_norms_over_frames(config),
        )
        if level.heads:
            self.transformer = SpatialTransformer(
                level.width,
                heads=level.heads,
                context=config.context,
                groups=config.groups,
                linear_projection=config.linear_projection,
                text_only=level.text_only,
                text_by_frame=text_by_frame,
                keys=keys,
                layers=layers,
            )
        site = Site(level.width, level.heads, config.groups, config.embedding, keys)
        self.insert(layers, site, *(() if place is None else (place,)))
        self.width, self.place = level.width, place

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        emb: Float[Array, "b 1 d"],
        text: Float[Array, "b l d2"],
    ) -> Float[Array, "b t h w c2"]:
        z = self.resnet(z, emb)
        z = self.transformer(z, text) if hasattr(self, "transformer") else z
        return z if self.place is None else self.at(self.place, z)


def _norms_over_frames(config: UNetConfig) -> bool:
    return config.temporal is not None and config.temporal.norm_over_frames
