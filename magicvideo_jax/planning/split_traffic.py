"""What the devices that share a clip send at each step of sampling it, from shapes alone.

    latents:  one all-reduce of the latents in float32, 2 n (g - 1) / g bytes a device                        (1)
    frames:   two all-to-alls for each layer over frames and pass, n / g (g - 1) / g bytes a device           (2)

n are the bytes of the whole array and g the devices, as in `collectives.py`. Layers over frames are
temporal attention and motion modules. Convolutions over frames and shifts send frames at borders
beside, which are not counted.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.latent_parallel import evaluated_share

_LAYER = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?.*(?:temporal\.to_q|motion_module\.proj_in)\.kernel"
)


@dataclass(frozen=True)
class SplitExchange:
    """What a device sends at a step of one clip that it shares, and what it computes."""

    operations: int
    bytes_sent: int
    evaluated: float
    """Latents that all devices evaluate, in clips: 1 where no part overlaps another."""
    is_possible: bool = True
    """Whether this split fits the clip."""


def step_exchanges(
    sample: SampleConfig,
    unet: UNetConfig,
    params: dict[str, Any],
    shape: tuple[int, int, int, int],
    *,
    devices: int,
    itemsize: int,
) -> dict[str, SplitExchange]:
    """Exchange by kind of split, for clips of latents of `shape` (t h w c) that so many devices share.

    `params` are the shapes of the U-Net's parameters, `itemsize` the bytes of an activation. Without
    a split of latents in `sample`, one of frames alone with its axes and overlap. Empty for clips that
    devices do not share.
    """
    if devices == 1:
        return {}
    passes = 1 if sample.guidance == 1 or unet.embeds_guidance else 2
    ring = (devices - 1) / devices
    layers = list(_frame_layers(unet, params, shape))
    merged = passes if sample.guidance_rescale else 1
    split = SplitConfig(SplitKind.LATENTS, devices, sample.split.axes, sample.split.overlap)
    return {
        SplitKind.LATENTS.value: SplitExchange(
            operations=1,
            bytes_sent=round(2 * 4 * math.prod(shape) * merged * ring),
            evaluated=evaluated_share(split, shape, stride=unet.stride),
        ),
        SplitKind.FRAMES.value: SplitExchange(
            operations=2 * len(layers) * passes,
            bytes_sent=round(2 * passes * sum(layers) * itemsize * ring / devices),
            evaluated=1.0,
            is_possible=shape[0] % devices == 0,
        ),
    }


def _frame_layers(
    unet: UNetConfig, params: dict[str, Any], shape: tuple[int, int, int, int]
) -> Iterator[int]:
    """Yield the numbers in the activations of each layer over frames."""
    t, h, w, _ = shape
    deepest = len(unet.levels) - 1
    for path, kernel in flatten(params).items():
        if match := _LAYER.fullmatch(path):
            way, number = match[1], int(match[2] or 0)
            level = {"down": number, "mid": deepest, "up": deepest - number}[way]
            yield t * math.ceil(h / 2**level) * math.ceil(w / 2**level) * kernel.shape[0]
