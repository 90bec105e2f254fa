"""When the frames of a file are shown, and which of them MagicVideo trains on."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int

from magicvideo_jax.core.errors import UserError


class ClipPart(StrEnum):
    """Part of a clip from which frames are taken."""

    ANY = "any"
    START = "start"
    END = "end"


@dataclass(frozen=True)
class Timeline:
    """Presentation time of each frame of a file."""

    moments: Float[np.ndarray, "n"]
    """Seconds since the first frame, ascending."""
    end: float
    """Seconds until the last frame disappears."""
    ticks: Int[np.ndarray, "n"] | None = None
    """The same times in the stream's own unit; None where the file has no times per frame."""

    @property
    def rate(self) -> float:
        """Average frames per second."""
        return len(self.moments) / self.end


def choose_frames(
    timeline: Timeline,
    rng: np.random.Generator,
    *,
    frames: int,
    fps_range: tuple[float, float] | None,
    part: ClipPart = ClipPart.ANY,
) -> tuple[Int[np.ndarray, "t"], float]:
    """Indices of `frames` frames, evenly spaced in a part of the clip, and their rate.

    The rate lies in `fps_range` and never exceeds the clip's own, which would repeat frames. A clip
    that is slower than the range keeps its own rate. Without a range, the frames are neighbours.
    Errors: `UserError` for a clip that is too short.
    """
    count, last = len(timeline.moments), float(timeline.moments[-1])
    if count < frames:
        raise UserError(f"too short: {count} frames, and {frames} are wanted")
    if frames == 1:
        only = {ClipPart.START: 0, ClipPart.END: count - 1}
        return np.array([only.get(part, rng.integers(count))]), timeline.rate
    if fps_range is None:
        firsts = {ClipPart.START: 0, ClipPart.END: count - frames}
        first = firsts.get(part, rng.integers(count - frames + 1))
        return first + np.arange(frames), timeline.rate
    slowest = min(last, (frames - 1) / fps_range[0])
    quickest = max((frames - 1) / fps_range[1], (frames - 1) * last / (count - 1))
    if quickest > last * (1 + 1e-9):
        raise UserError(
            f"too short: {last:.2f} s, and {frames} frames at {fps_range[1]:g} a second "
            f"take {quickest:.2f} s"
        )
    length = min(last, rng.uniform(quickest, max(quickest, slowest)))
    starts = {ClipPart.START: 0.0, ClipPart.END: last - length}
    start = starts.get(part, rng.uniform(0, last - length))
    wanted = start + length * np.arange(frames) / (frames - 1)
    which = np.searchsorted(timeline.moments, wanted + 1e-6, side="right") - 1
    return which, (frames - 1) / length
