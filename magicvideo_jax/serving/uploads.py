"""Uploaded clips read: in a decoder process, within a time limit, whatever they are."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.decoder_pool import DecodeJob, decode_alone
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.media.framing import FrameSize

DECODE_SECONDS = 20.0
MOST_FRAMES, MOST_SIDE = 256, 2048
_FPS_RANGE = (1.0, 60.0)


@dataclass(frozen=True)
class UploadedFrames:
    """Chosen frames of a clip, in a file of numpy."""

    file: Path
    fps: float


def checked_upload(path: str | None, *, within: Path) -> Path:
    """The file of an upload in the folder `within`.

    Errors: `UserError` for no file, one from elsewhere, and one that is no video or picture.
    """
    if not path:
        raise UserError("--clip: give a video or a picture")
    clip = Path(path).resolve()
    if within.resolve() not in clip.parents or not clip.is_file():
        raise UserError("--clip: this is no upload: give a file of your own")
    if clip.suffix.lower() not in ENDINGS:
        raise UserError(f"--clip={clip.name}: give a file that ends in {', '.join(ENDINGS)}")
    return clip


@contextlib.contextmanager
def uploaded_frames(
    path: str | None, *, within: Path, frames: int, size: FrameSize
) -> Iterator[UploadedFrames]:
    """Frames of an upload in the folder `within`, cropped to a size; their file goes with the block.

    Errors: those of `checked_upload`; `UserError` for a file that cannot be decoded in time.
    """
    clip = checked_upload(path, within=within)
    if not 1 <= frames <= MOST_FRAMES:
        raise UserError(f"--frames={frames}: give 1 to {MOST_FRAMES}")
    if max(size) > MOST_SIDE or any(side % 8 for side in size):
        shown = "x".join(map(str, size))
        raise UserError(f"--size={shown}: give multiples of 8, at most {MOST_SIDE}")
    job = DecodeJob(clip, (0,), frames, (size,), _FPS_RANGE)
    decoded = decode_alone(job, f"--clip={clip.name}", timeout=DECODE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="magicvideo_frames_") as folder:
        file = Path(folder) / "frames.npy"
        np.save(file, decoded.frames)
        yield UploadedFrames(file, decoded.fps)
