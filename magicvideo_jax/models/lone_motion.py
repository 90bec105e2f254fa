"""Motion modules without their U-Net, as AnimateDiff's files hold them."""

from dataclasses import dataclass, field
from typing import Any

from magicvideo_jax.core.checks import at_least, not_empty
from magicvideo_jax.core.tree import split_by_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.temporal import ANIMATEDIFF_V3, TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet


@dataclass(frozen=True)
class MotionConfig:
    """Motion modules, and the sizes of the U-Nets that they fit. The defaults are those of
    Stable Diffusion 1.x."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels at each resolution."""
    blocks: int = 2
    """Residual blocks per resolution on the way down."""
    groups: int = 32
    """Groups of their norms; in a U-Net these are the U-Net's."""
    temporal: TemporalConfig = field(default_factory=lambda: ANIMATEDIFF_V3)

    def __post_init__(self) -> None:
        not_empty(self, "widths")
        at_least(1, self, "blocks", "groups")


def motion_config_of(unet: UNetConfig) -> MotionConfig:
    """Configuration of the motion modules in a U-Net. Errors: `ValueError` where it has none."""
    if unet.temporal is None or unet.temporal.motion is None:
        raise ValueError("a U-Net without motion modules")
    widths = tuple(level.width for level in unet.levels)
    return MotionConfig(widths, unet.blocks, unet.groups, unet.temporal)


def is_motion(path: str) -> bool:
    """Whether a parameter of a U-Net, by its dotted path, is one of a motion module."""
    return "motion_module" in path.split(".")


def motion_network(config: MotionConfig) -> Network:
    """Parameters of motion modules at the paths that they have in a U-Net; it cannot be applied."""
    unet = UNetConfig(
        levels=tuple(UNetLevelConfig(width, heads=0) for width in config.widths),
        middle_heads=0,
        blocks=config.blocks,
        groups=1,  # no shape depends on it, and a file may leave it open
        temporal=config.temporal,
    )
    whole = bind(lambda keys: VideoUNet(unet, keys=keys))

    def motion(params: Params) -> Params:
        return split_by_path(params, is_motion)[0]

    def apply(*_: Any, **__: Any) -> Any:
        raise TypeError("motion modules work inside a U-Net only")

    return Network(apply, lambda key: motion(whole.init(key)), motion(whole.shapes), apply)
