"""Frames of clips, resized and cropped: this project over bare PyAV decoding of the same frames.

    python benchmarks/decode.py CLIP_OR_FOLDER .. [--frames 16] [--size 64] [--rounds 5]

Ours: the times of all frames, then the chosen ones, resized, cropped, as RGB. Theirs: open, seek, decode up to the last
chosen frame, and nothing done with it. Order A B A B; the ratio is of the fastest rounds. Prints one JSON line.
"""

import argparse
import json
from pathlib import Path

import av
import numpy as np
from side_by_side import side_by_side

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.frame_reader import read_frames, read_timeline
from magicvideo_jax.media.movie_files import MOVIES
from magicvideo_jax.media.timeline import Timeline, choose_frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    looks = {
        path: look
        for path in clips_of(asked.paths)
        if (look := look_at(path, asked.frames)) is not None
    }

    def ours() -> None:
        for path, (_, which) in looks.items():
            read_frames(path, read_timeline(path), which, [(asked.size, asked.size)])

    def theirs() -> None:
        for path, (shown, which) in looks.items():
            decode_only(path, shown, which)

    print(
        json.dumps(
            {
                "benchmark": "decode",
                "clips": len(looks),
                "frames": asked.frames,
                "size": asked.size,
            }
            | side_by_side(ours, theirs, names=("our", "pyav"), rounds=asked.rounds)
        )
    )


def clips_of(paths: list[Path]) -> list[Path]:
    found = [
        file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]
    return [file for file in found if file.suffix.lower() in MOVIES]


def look_at(path: Path, frames: int) -> tuple[Timeline, np.ndarray] | None:
    """Which frames of a clip are wanted; none of one that is too short, or that PyAV cannot seek by time."""
    try:
        shown = read_timeline(path)
        if shown.ticks is None:
            raise UserError("its frames have no times of their own")
        return shown, choose_frames(
            shown, np.random.default_rng(0), frames=frames, fps_range=(1, 24)
        )[0]
    except UserError as error:
        print(f"{path.name}: {error}")
        return None


def decode_only(path: Path, shown: Timeline, which: np.ndarray) -> None:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        assert shown.ticks is not None
        first, last = shown.ticks[[which[0], which[-1]]]
        file.seek(int(first), stream=stream, backward=True)
        for frame in file.decode(stream):
            if frame.pts is not None and frame.pts >= last:
                return


if __name__ == "__main__":
    main()
