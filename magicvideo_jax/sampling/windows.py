"""Uniform context windows: clips with more frames than a network was trained on.

Every denoising step runs the network on windows of c frames, one after the other, and averages its
outputs where windows overlap. At step s, a clip of F frames has these windows:

    h = 0, 1/2, 1/4, 3/4, 1/8 ..                             bits of s, mirrored at the binary point          (1)
    d = 1, 2, 4 .. 2^(k-1),   k = min(K, ceil(log2(F / c)) + 1)                                               (2)
    first = floor(h d) + p, .. below F + p (- overlap unless the clip loops), every c d - overlap frames      (3)
            p = round(h F)
    frames = first, first + d, .. first + (c-1) d,   modulo F                                                 (4)

(the `uniform` schedule of animatediff-cli and ComfyUI-AnimateDiff-Evolved). As h changes from step
to step, so do the frames at which windows meet, and no seam stays. In a clip that does not loop, a
window across its end would mix the last frames with the first, which are no neighbours: the last
and the first window of the clip take its place (as in the latter's `standard uniform`).

Which to use when:

* Averaging outputs (`ContextFusion.OUTPUT`) needs nothing from the network: it fits every video
  model, and needs the memory of one window. F / (c - overlap) windows are computed per step, or
  one more. Content may drift along the clip: `stride` 2 or 3 holds it together at 1.5 to 2 times
  the cost, `reuse_noise` at none.
* Averaging inside of the attention (`ContextFusion.ATTENTION`) with `reuse_noise` is FreeNoise
  (2310.15169): smoother transitions and one subject throughout, for AnimateDiff's motion modules.
  The rest of the network sees the whole clip at once and needs memory for it.
* FreeInit (`free_init.py`) is for flicker, not for length, and works with either.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from magicvideo_jax.core.checks import at_least, refused
from magicvideo_jax.core.types import Denoise


class ContextFusion(Enum):
    """Where windows are joined."""

    OUTPUT = "output"
    """The network runs on windows, and its outputs are averaged."""
    ATTENTION = "attention"
    """The network runs on the whole clip, and its temporal attention on windows
    (`models/frame_windows.py`)."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class ContextConfig:
    """Context windows for clips longer than those a model was trained on."""

    frames: int | None = None
    """Frames of a window, at best as many as the model was trained on; None: no windows."""
    fuse: ContextFusion = ContextFusion.OUTPUT
    """Attention has windows of its own distance, no stride and no loop."""
    overlap: int = 4
    """Frames that a window shares with the next. More cost time and hide seams better."""
    stride: int = 1
    """Number of strides (K of eq. 2). 1: windows of adjacent frames; 2 and 3 add windows of every
    second and every fourth frame, which hold a long clip together and cost time."""
    loop: bool = False
    """Whether the clip's last frame leads to its first."""
    reuse_noise: bool = False
    """Whether later windows start from the first one's noise, with frames permuted (FreeNoise), so
    that the content changes less along the clip."""

    def __post_init__(self) -> None:
        at_least(1, self, "frames", "stride")
        at_least(0, self, "overlap")
        in_attention = self.fuse is ContextFusion.ATTENTION
        if self.frames is None and (self.reuse_noise or in_attention):
            name = "reuse_noise" if self.reuse_noise else "fuse"
            raise refused(self, name, "give frames, the length of a window, too")
        if in_attention and (self.stride > 1 or self.loop):
            raise refused(self, "fuse", "give output for windows with a stride or a loop")
        if self.frames is not None and not in_attention and self.overlap >= self.frames:
            raise refused(self, "overlap", f"give less than frames={self.frames}")

    def for_clip(self, frames: int) -> "ContextConfig":
        """These windows, or none for a clip that fits one."""
        return self if self.frames is not None and self.frames < frames else ContextConfig()

    @property
    def attention_window(self) -> int | None:
        """Number of frames that attend to one another; None: all of what the network sees."""
        return self.frames if self.fuse is ContextFusion.ATTENTION else None


@dataclass(frozen=True, eq=False)
class ContextWindows:
    """Context windows of every denoising step: a pytree whose numbers are traced."""

    first: Int[Any, "s n"]
    """First frame of each window; rows are padded with zeros."""
    stride: Int[Any, "s n"]
    """Distance between a window's frames."""
    count: Int[Any, "s"]
    """Number of windows of each step."""
    size: int
    """Frames of a window."""


jax.tree_util.register_dataclass(
    ContextWindows, data_fields=["first", "stride", "count"], meta_fields=["size"]
)


def uniform_windows(config: ContextConfig, *, frames: int, step: int) -> list[tuple[int, int]]:
    """First frame and stride of each context window of a clip at one step (eq. 1 to 4).

    Together they cover every frame. A clip that fits a window has one.
    """
    size = config.frames
    if size is None or frames <= size:
        return [(0, 1)]
    shift = _mirrored_bits(step)
    start = round(frames * shift)
    end = frames + start - (0 if config.loop else config.overlap)
    strides = min(config.stride, math.ceil(math.log2(frames / size)) + 1)
    windows = [
        (first % frames, stride)
        for stride in (2**i for i in range(strides))
        for first in range(int(shift * stride) + start, end, size * stride - config.overlap)
    ]
    return windows if config.loop else _within_clip(windows, frames=frames, size=size)


def context_windows(config: ContextConfig, *, frames: int, steps: int) -> ContextWindows | None:
    """Context windows of each of `steps` steps; None for a network that sees the whole clip."""
    config = config.for_clip(frames)
    if config.frames is None or config.fuse is not ContextFusion.OUTPUT:
        return None
    rows = [uniform_windows(config, frames=frames, step=step) for step in range(steps)]
    count = np.array([len(row) for row in rows], np.int32)
    first, stride = np.zeros((2, steps, max(count)), np.int32)
    for step, row in enumerate(rows):
        first[step, : len(row)], stride[step, : len(row)] = zip(*row, strict=True)
    return ContextWindows(first, stride, count, config.frames)


Select = Callable[[Any, Int[Array, "c"], Int[Array, ""]], Any]
"""Condition of a window, from that of the clip, the window's frames and their stride."""


def windowed(
    denoise: Denoise,
    windows: ContextWindows,
    times: Float[Any, "s"],
    *,
    select: Select | None = None,
) -> Denoise:
    """Denoiser of long clips from a denoiser of `windows.size` frames; its output is float32.

    `times` are those of the sampler's steps, by which a call finds its step. `select` gives the
    condition of a window; without it, every window has that of the clip. Inside of `guided`,
    guidance applies to the whole clip.
    """

    def wrapped(
        z: Float[Array, "b t *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b t *axes"]:
        first, stride, count = map(jnp.asarray, (windows.first, windows.stride, windows.count))
        step = jnp.argmin(jnp.abs(jnp.asarray(times) - time[0]))

        def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            total, outputs = sums
            frames = (first[step, i] + stride[step, i] * jnp.arange(windows.size)) % z.shape[1]
            part = condition if select is None else select(condition, frames, stride[step, i])
            output = denoise(jnp.take(z, frames, axis=1), time, part)
            total = total.at[:, frames].add(output.astype(jnp.float32))
            return total, outputs.at[frames].add(1)

        start = jnp.zeros(z.shape, jnp.float32), jnp.zeros(z.shape[1], jnp.float32)
        total, outputs = jax.lax.fori_loop(0, count[step], add, start)
        return total / outputs.reshape(1, -1, *(1,) * (z.ndim - 2))

    return wrapped


def _mirrored_bits(number: int) -> float:
    """Bits of a number mirrored at the binary point (eq. 1): 0, 1/2, 1/4, 3/4, 1/8 .. for 0, 1, 2 .."""
    bits = f"{number:b}"
    return int(bits[::-1], 2) / 2 ** len(bits)


def _within_clip(
    windows: list[tuple[int, int]], *, frames: int, size: int
) -> list[tuple[int, int]]:
    """Windows that do not cross the clip's end; those longer than the clip are left out."""
    kept = []
    for first, stride in windows:
        last_first = frames - (size - 1) * stride - 1
        if first <= last_first:
            kept.append((first, stride))
        elif last_first >= 0:
            kept += [(last_first, stride), (0, stride)]
    return list(dict.fromkeys(kept))
