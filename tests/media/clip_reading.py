"""All frames of a video file or animation at their own size, to compare with what was written."""

from pathlib import Path

import av
import numpy as np


def read_clip(path: str | Path) -> tuple[np.ndarray, float]:
    """Frames uint8 (t h w 3), and frames per second."""
    with av.open(f"file:{path}") as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        return np.stack(frames), float(stream.average_rate)
