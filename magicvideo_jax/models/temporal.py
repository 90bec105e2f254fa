"""Temporal layers of a video network, as data: which there are, and where.

`temporal_layers.py` makes of a `TemporalConfig` the layers and their places in the U-Net.
"""

from dataclasses import dataclass, replace
from enum import Enum

from magicvideo_jax.core.checks import FieldError, at_least

VIDEO_PARTS = (
    "adaptor",
    "temporal",
    "fps_embedding",
    "known_frames",
    "motion_module",
    "temporal_resnet",
    "temporal_block",
)
"""Parameters that a video network adds to an image network, by words of their paths (trailing
digits ignored)."""


class TemporalMixing(Enum):
    """Placement and kind of the layers that mix frames."""

    PARALLEL = "parallel"
    """Temporal attention in parallel with the spatial transformer, summed (MagicVideo)."""
    SEQUENTIAL = "sequential"
    """Temporal attention after the spatial transformer."""
    LAVIE = "lavie"
    """Temporal attention between cross-attention and feed-forward (LaVie 2309.15103)."""
    AFTER_FEED_FORWARD = "after_feed_forward"
    """Temporal attention after the feed-forward (LaVie's interpolation network)."""
    SHIFT = "shift"
    """Temporal shift of two thirds of the channels, without parameters, at the end of each residual
    branch: after its last convolution, before the sum (Latent-Shift 2304.08477)."""
    SHIFT_AT_START = "shift_at_start"
    """The same shift at the start of each residual branch, before its first norm (the place of TSM,
    Lin et al. 1811.08383)."""
    NONE = "none"
    """Independent frames (the paper's ablation, which is incoherent)."""


class TemporalMask(Enum):
    """Frames to which temporal attention attends."""

    DIRECTED = "directed"
    """Frames j <= i, by a mask before the softmax."""
    POST_SOFTMAX = "post_softmax"
    """The paper's equation taken literally: a softmax over all frames, then multiplied by the
    triangular mask."""
    NONE = "none"
    """All frames (bidirectional)."""


class PositionEncoding(Enum):
    """Positional encoding of frames in temporal attention."""

    NONE = "none"
    LEARNED = "learned"
    ROPE = "rope"


class MotionNorm(Enum):
    """Frames over which the group norms of a U-Net with motion modules take their statistics.

    Three conventions exist, and the same weights give other clips under each: motion modules
    should be sampled under the one that they were trained with.
    """

    AUTO = "auto"
    """The convention of the program that the weights' file belongs to."""
    ORIGINAL = "original"
    """AnimateDiff's own code: every frame by itself. For modules of v1's form (24 positions, none
    in the middle) the same as `ORIGINAL_V1`."""
    ORIGINAL_V1 = "original_v1"
    """AnimateDiff v1, and its training code as published: residual blocks and output over all
    frames of a clip, motion modules over each."""
    DIFFUSERS = "diffusers"
    """diffusers, for any version: motion modules over all frames of a clip, the rest over each."""


@dataclass(frozen=True)
class MotionModuleConfig:
    """AnimateDiff's motion modules (2307.04725): a transformer over frames after each block of the
    way down and the way up, with sinusoidal positions for `TemporalConfig.frames` frames."""

    heads: int = 8
    in_middle: bool = False
    """Whether the middle has a module too (AnimateDiff v2)."""
    norm_over_frames: bool = False
    """Whether a module's group norm takes its statistics over all frames of a clip, as diffusers
    does, or over each frame, as AnimateDiff's own code does. The same weights give other clips."""
    attention_window: int | None = None
    """Number of frames that attend to one another: a longer clip is averaged over windows of so
    many (FreeNoise 2310.15169), and may have any number of frames. None: all frames of a clip."""

    def __post_init__(self) -> None:
        at_least(1, self, "heads", "attention_window")


@dataclass(frozen=True)
class TemporalConfig:
    """Temporal layers of a video network. The defaults are the paper's."""

    frames: int = 16
    """Number of frames for which adaptors, learned and sinusoidal positions exist. Shorter clips
    use the first ones."""
    adaptors: bool = True
    mixing: TemporalMixing = TemporalMixing.PARALLEL
    mask: TemporalMask = TemporalMask.DIRECTED
    position: PositionEncoding = PositionEncoding.NONE
    relative_bias: bool = False
    """Whether temporal attention adds a learned bias for each distance of frames (T5 1910.10683),
    as LaVie does."""
    fps: bool = True
    """Whether the frame rate is embedded and added to the time embedding."""
    norm_over_frames: bool = False
    """Whether group norms of residual blocks and of the output take their statistics over all
    frames of a clip, as LaVie and AnimateDiff v1 do, or over each frame."""
    first_and_previous: bool = False
    """Whether self-attention attends to the first and the previous frame instead of its own
    (LaVie's interpolation network)."""
    residual_blocks: bool = False
    """Whether residual blocks with convolutions over frames stand before each transformer and
    after each level (LaVie's super-resolution network)."""
    motion: MotionModuleConfig | None = None
    known_frames: bool = False
    """Whether the network reads, beside noisy latents, those of frames that are known and which
    these are (`diffusion/known_frames.py`): for clips that start from pictures."""

    def __post_init__(self) -> None:
        at_least(1, self, "frames")
        if self.motion is not None and (self.motion.attention_window or 0) > self.frames:
            raise FieldError(
                f"motion.attention_window={self.motion.attention_window}: give at most "
                f"frames={self.frames}"
            )

    @property
    def max_frames(self) -> int | None:
        """Number of frames that a clip may have at most; None: any number."""
        has_positions = self.motion is not None and self.motion.attention_window is None
        is_limited = self.adaptors or has_positions or self.position is PositionEncoding.LEARNED
        return self.frames if is_limited else None

    @property
    def is_directed(self) -> bool:
        """Whether no frame depends on a later one."""
        mixes_by_attention = self.mixing not in (
            TemporalMixing.SHIFT,
            TemporalMixing.SHIFT_AT_START,
        )
        mixes_otherwise = self.norm_over_frames or self.residual_blocks or self.motion is not None
        return self.mask is TemporalMask.DIRECTED and mixes_by_attention and not mixes_otherwise

    def in_attention_windows(self, frames: int) -> "TemporalConfig":
        """The same layers, of which motion modules attend in windows of `frames` frames."""
        motion = self.motion and replace(self.motion, attention_window=frames)
        return replace(self, motion=motion)


LAVIE = TemporalConfig(
    adaptors=False,
    mixing=TemporalMixing.LAVIE,
    mask=TemporalMask.NONE,
    position=PositionEncoding.ROPE,
    relative_bias=True,
    fps=False,
    norm_over_frames=True,
)
"""LaVie's base network."""

LAVIE_INTERPOLATION = TemporalConfig(
    adaptors=False,
    mixing=TemporalMixing.AFTER_FEED_FORWARD,
    mask=TemporalMask.NONE,
    fps=False,
    norm_over_frames=True,
    first_and_previous=True,
)
"""LaVie's interpolation network, from 16 to 61 frames."""

LAVIE_VSR = replace(LAVIE, residual_blocks=True)
"""LaVie's super-resolution network."""

LATENT_SHIFT = TemporalConfig(
    adaptors=False, mixing=TemporalMixing.SHIFT, mask=TemporalMask.NONE, fps=False
)
"""Latent-Shift: an image network whose parameters are all that there are."""


def animatediff(
    *, frames: int, motion: MotionModuleConfig, norm_over_frames: bool = False
) -> TemporalConfig:
    """Motion modules alone, without MagicVideo's layers."""
    return TemporalConfig(
        frames=frames,
        adaptors=False,
        mixing=TemporalMixing.NONE,
        mask=TemporalMask.NONE,
        fps=False,
        norm_over_frames=norm_over_frames,
        motion=motion,
    )


ANIMATEDIFF_V1 = animatediff(frames=24, motion=MotionModuleConfig(), norm_over_frames=True)
ANIMATEDIFF_V2 = animatediff(frames=32, motion=MotionModuleConfig(in_middle=True))
ANIMATEDIFF_V3 = animatediff(frames=32, motion=MotionModuleConfig())


def with_motion_norm(temporal: TemporalConfig, norm: MotionNorm) -> TemporalConfig:
    """Motion modules with their norms by another convention (`AUTO`: unchanged).

    Errors: `ValueError` for temporal layers without motion modules.
    """
    if temporal.motion is None:
        raise ValueError("no motion modules")
    if norm is MotionNorm.AUTO:
        return temporal
    has_v1_form = temporal.frames == ANIMATEDIFF_V1.frames and not temporal.motion.in_middle
    is_v1 = norm is MotionNorm.ORIGINAL_V1 or (norm is MotionNorm.ORIGINAL and has_v1_form)
    motion = replace(temporal.motion, norm_over_frames=norm is MotionNorm.DIFFUSERS)
    return replace(temporal, norm_over_frames=is_v1, motion=motion)
