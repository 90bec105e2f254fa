"""LFDM's auto-encoder of latent flow (Ni et al. 2303.13744, section 3.2): a frame is the warped
picture that it began with.

    T_0(x) = B [x; 1],   T_k(x) = mu_S + sgn(M_00) M (x - mu_D),   M = A_S A_D^-1
    F = sum_k mask_k T_k,   O = sigmoid(...)
    y <- S(skip, F) O + y (1 - O)          at every size of the decoder, and at last of the picture itself

F is backward flow: the position in the source at which each pixel is found, of a quarter of the
frame's size. S samples (`flow_sampling.py`).
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from magicvideo_jax.core.checks import FieldError, at_least
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import Keys
from magicvideo_jax.models.layers import Conv, Padding
from magicvideo_jax.models.lfdm.batch_norm import moved_statistics
from magicvideo_jax.models.lfdm.flow_sampling import (
    antialiased,
    pixel_grid,
    resize_map,
    sample_at,
)
from magicvideo_jax.models.lfdm.hourglass import (
    DoublingBlock,
    HalvingBlock,
    Hourglass,
    HourglassConfig,
    NormedConv,
    PreNormResidual,
)
from magicvideo_jax.models.lfdm.regions import (
    BackgroundPredictor,
    RegionPredictor,
    Regions,
    inverse_2x2,
    region_heat,
)


@dataclass(frozen=True)
class LatentFlowConfig:
    """Sizes of the auto-encoder. The defaults are those of the published ones for 128 x 128."""

    regions: int = 10
    padded_regions: bool = False
    """Whether the convolution that scores regions is padded: MUG's is, MHAD's and NATOPS' are not."""
    flow_factor: int = 4
    """Side of a frame over that of its flow, of which regions and flow are predicted."""
    region_net: HourglassConfig = field(default_factory=lambda: HourglassConfig(32))
    background_net: HourglassConfig = field(default_factory=lambda: HourglassConfig(32))
    flow_net: HourglassConfig = field(default_factory=lambda: HourglassConfig(64))
    width: int = 64
    """Channels of the generator at the frame's size; each of `downs` halvings doubles them."""
    max_width: int = 512
    downs: int = 2
    residuals: int = 6

    def __post_init__(self) -> None:
        at_least(1, self, "regions", "width", "max_width", "downs", "residuals")
        if self.flow_factor not in (1, 2, 4, 8):
            raise FieldError(f"flow_factor={self.flow_factor}: give 1, 2, 4 or 8")

    def width_at(self, level: int) -> int:
        """Channels of the generator after so many halvings."""
        return min(self.max_width, self.width * 2**level)

    @property
    def feature_width(self) -> int:
        """Channels of the picture's feature."""
        return self.width_at(self.downs)

    @property
    def side_multiple(self) -> int:
        """Number that divides the sides of frames."""
        nets = (self.region_net, self.flow_net)
        return max(
            *(self.flow_factor * 2**net.blocks for net in nets),
            2**self.background_net.blocks,
            2**self.downs,
        )


class FlowField(NamedTuple):
    """Motion from a picture to a frame."""

    flow: Float[Array, "b h w 2"]
    """Position (x, y) in the picture of each pixel of the frame."""
    occlusion: Float[Array, "b h w 1"]
    """Share of each pixel that the picture shows; the rest is invented."""


class DecodedFrame(NamedTuple):
    """A frame made of a picture and its flow, in [0, 1]."""

    prediction: Float[Array, "b h w 3"]
    deformed: Float[Array, "b h w 3"]
    """The warped picture alone."""


class FlowTrainingPass(NamedTuple):
    """Result of a training pass over pairs of frames and warped driving frames."""

    frame: DecodedFrame
    """The driving frame, made of its source."""
    driving: Regions
    """Regions of the driving frame."""
    warped: Regions
    """Regions of the warped driving frame."""
    statistics: Params
    """Batch statistics after the pass, without gradients."""


class PixelwiseFlow(nnx.Module):
    """Flow of every pixel, composed of the motions of the regions and of the background."""

    def __init__(self, config: LatentFlowConfig, *, keys: Keys, dtype: DTypeLike):
        count = config.regions + 1
        self.hourglass = Hourglass(config.flow_net, 4 * count, keys=keys)
        width = config.flow_net.outputs(4 * count)
        self.mask = Conv(width, count, size=7, padding=Padding.THREE, keys=keys)
        self.occlusion = Conv(width, 1, size=7, padding=Padding.THREE, keys=keys)
        self.scale, self.dtype = 1 / config.flow_factor, dtype

    def __call__(
        self,
        source: Float[Array, "b h w 3"],
        source_regions: Regions,
        driving_regions: Regions,
        background: Float[Array, "b 2 3"],
    ) -> FlowField:
        small = antialiased(source, self.scale)
        b, h, w, _ = small.shape
        grid = pixel_grid(h, w, small.dtype)
        motions = region_motions(grid, source_regions, driving_regions, background)
        moved = region_heat(driving_regions, grid) - region_heat(source_regions, grid)
        heat = jnp.pad(moved, [(0, 0)] * 3 + [(1, 0)])  # none of the background

        count = motions.shape[3]
        # Regions side by side make one tall map of positions, sampled at once.
        tall = jnp.moveaxis(motions, 3, 1).reshape(b, count * h, w, 2)
        warped = sample_at(small, tall).reshape(b, count, h, w, 3)
        inputs = jnp.concatenate([heat[..., None], jnp.moveaxis(warped, 1, 3)], axis=-1)
        features = self.hourglass(inputs.reshape(b, h, w, 4 * count).astype(self.dtype))

        mask = jax.nn.softmax(self.mask(features).astype(small.dtype), axis=-1)
        occlusion = jax.nn.sigmoid(self.occlusion(features).astype(small.dtype))
        return FlowField((mask[..., None] * motions).sum(3), occlusion)


def region_motions(
    grid: Float[Array, "h w 2"],
    source: Regions,
    driving: Regions,
    background: Float[Array, "b 2 3"],
) -> Float[Array, "b h w k 2"]:
    """T_k at every pixel: where it would be in the source if it moved with region k - 1, or for
    k = 0 with the background."""
    exact = jax.lax.Precision.HIGHEST
    linear = jnp.einsum(
        "bkij,bkjl->bkil", source.affine, inverse_2x2(driving.affine), precision=exact
    )
    linear = linear * jnp.sign(linear[..., :1, :1])
    away = grid[None, :, :, None] - driving.shift[:, None, None]
    moved = jnp.einsum("bkij,bhwkj->bhwki", linear, away, precision=exact)
    moved = moved + source.shift[:, None, None]
    behind = jnp.einsum("bij,hwj->bhwi", background[..., :2], grid, precision=exact)
    behind = behind + background[:, None, None, :, 2]
    return jnp.concatenate([behind[..., None, :], moved], axis=3)


class FlowGenerator(nnx.Module):
    """Frames from a picture and flow."""

    def __init__(self, config: LatentFlowConfig, *, keys: Keys, dtype: DTypeLike):
        widths = [config.width_at(level) for level in range(config.downs + 1)]
        self.first = NormedConv(3, config.width, size=7, padding=Padding.THREE, keys=keys)
        self.down_blocks = nnx.List([HalvingBlock(i, o, keys=keys) for i, o in pairwise(widths)])
        self.bottleneck = nnx.List(
            [PreNormResidual(widths[-1], keys=keys) for _ in range(config.residuals)]
        )
        self.up_blocks = nnx.List(
            [DoublingBlock(i, o, keys=keys) for o, i in list(pairwise(widths))[::-1]]
        )
        self.final = Conv(config.width, 3, size=7, padding=Padding.THREE, keys=keys)
        self.pixelwise_flow_predictor = PixelwiseFlow(config, keys=keys, dtype=dtype)
        self.dtype = dtype

    def encode(self, source: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """Maps of the picture of every size; the last is its feature."""
        maps = [self.first(source.astype(self.dtype))]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps

    def __call__(self, source: Float[Array, "b h w 3"], field: FlowField) -> DecodedFrame:
        return self.warp(source, self.encode(source), field)

    def warp(
        self,
        source: Float[Array, "b h w 3"],
        maps: list[Float[Array, "b _h _w _c"]],
        field: FlowField,
    ) -> DecodedFrame:
        """Frames of pictures whose maps are known."""

        def warped(image: Float[Array, "b h w c"]) -> tuple[Array, Array]:
            """The image at the flow's positions, and its share of the result."""
            flow, share = (resize_map(one, *image.shape[1:3]) for one in field)
            return sample_at(image, flow), share.astype(image.dtype)

        *skips, feature = maps
        moved, share = warped(feature)
        y = moved * share
        for block in self.bottleneck:
            y = block(y)
        for block, skip in zip(self.up_blocks, [feature, *skips[:0:-1]], strict=True):
            moved, share = warped(skip)
            y = block(moved * share + y * (1 - share))
        moved, share = warped(skips[0])
        y = self.final(moved * share + y * (1 - share)).astype(source.dtype)
        deformed, share = warped(source)
        return DecodedFrame(deformed * share + jax.nn.sigmoid(y) * (1 - share), deformed)


class LatentFlow(nnx.Module):
    """The whole auto-encoder, of pictures in [0, 1]."""

    def __init__(self, config: LatentFlowConfig, *, keys: Keys, dtype: DTypeLike = jnp.float32):
        self.region_predictor = RegionPredictor(
            config.region_net,
            config.regions,
            scale=1 / config.flow_factor,
            padding=Padding.THREE if config.padded_regions else Padding.NONE,
            keys=keys,
            dtype=dtype,
        )
        self.bg_predictor = BackgroundPredictor(config.background_net, keys=keys, dtype=dtype)
        self.generator = FlowGenerator(config, keys=keys, dtype=dtype)

    def flow(self, source: Float[Array, "b h w 3"], driving: Float[Array, "b h w 3"]) -> FlowField:
        """Flow and occlusion from each source to its driving frame."""
        regions = self.region_predictor(source), self.region_predictor(driving)
        return self.flow_between(source, driving, *regions)

    def flow_between(
        self,
        source: Float[Array, "b h w 3"],
        driving: Float[Array, "b h w 3"],
        source_regions: Regions,
        driving_regions: Regions,
    ) -> FlowField:
        """Flow and occlusion from each source to its driving frame, whose regions are known."""
        background = self.bg_predictor(source, driving)
        flow_of = self.generator.pixelwise_flow_predictor
        return flow_of(source, source_regions, driving_regions, background)

    def feature(self, source: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """The feature of a picture, which the diffusion model is given."""
        return self.generator.encode(source)[-1].astype(source.dtype)

    def decode(self, source: Float[Array, "b h w 3"], field: FlowField) -> DecodedFrame:
        """Frames from pictures and flow."""
        return self.generator(source, field)

    def clip_flow(
        self, clips: Float[Array, "b t h w 3"]
    ) -> tuple[Float[Array, "b t h2 w2 2"], Float[Array, "b t h2 w2 1"]]:
        """Flow and occlusion of all frames of clips from the first."""
        b, t = clips.shape[:2]
        frames = clips.reshape(b * t, *clips.shape[2:])
        regions = self.region_predictor(frames)
        first = Regions(*(_repeated(x.reshape(b, t, *x.shape[1:])[:, 0], t) for x in regions))
        field = self.flow_between(_repeated(clips[:, 0], t), frames, first, regions)
        flow, occlusion = (x.reshape(b, t, *x.shape[1:]) for x in field)
        return flow, occlusion

    def decode_clip(
        self,
        source: Float[Array, "b h w 3"],
        flow: Float[Array, "b t h2 w2 2"],
        occlusion: Float[Array, "b t h2 w2 1"],
    ) -> tuple[Float[Array, "b t h w 3"], Float[Array, "b t h w 3"]]:
        """Clips from pictures, which are encoded once, and the warped pictures alone."""
        b, t = flow.shape[:2]
        maps = [_repeated(x, t) for x in self.generator.encode(source)]
        folded = FlowField(*(x.reshape(b * t, *x.shape[2:]) for x in (flow, occlusion)))
        made = self.generator.warp(_repeated(source, t), maps, folded)
        prediction, deformed = (x.reshape(b, t, *x.shape[1:]) for x in made)
        return prediction, deformed

    def __call__(
        self, source: Float[Array, "b h w 3"], driving: Float[Array, "b h w 3"]
    ) -> DecodedFrame:
        """Each driving frame, made of its source."""
        return self.decode(source, self.flow(source, driving))

    def train_on(
        self,
        source: Float[Array, "b h w 3"],
        driving: Float[Array, "b h w 3"],
        warped: Float[Array, "b h w 3"],
    ) -> FlowTrainingPass:
        """Pass in training mode. Regions are predicted three times, and so often their statistics move, in the order
        of the arguments."""
        self.train()
        regions = self.region_predictor(source), self.region_predictor(driving)
        frame = self.decode(source, self.flow_between(source, driving, *regions))
        of_warped = self.region_predictor(warped)
        return FlowTrainingPass(frame, regions[1], of_warped, moved_statistics(self))


def _repeated(x: Float[Array, "b *rest"], t: int) -> Float[Array, "n *rest"]:
    """Each example `t` times, one after the other."""
    return jnp.repeat(x, t, axis=0)
