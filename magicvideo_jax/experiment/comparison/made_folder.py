"""Clips that are in files: folders of pictures, arrays, and compressed files where they are allowed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.types import Clip
from magicvideo_jax.evaluation.protocols import EvaluationProtocol
from magicvideo_jax.experiment.comparison.clip_sets import (
    SomeClips,
    first_size,
    short_digest,
    stack_clips,
)
from magicvideo_jax.media.decoder_pool import DecodeJob, DecoderPool, SkippedClip
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.media.framing import RGBFrame
from magicvideo_jax.media.picture_files import still_picture
from magicvideo_jax.media.timeline import ClipPart

_DECODERS = 2
"""Processes that decode compressed clips."""


@dataclass(frozen=True)
class FolderClips:
    """Clips in a folder, by name: folders of pictures as `sample` writes them, and `.npy` of uint8 (t h w 3).

    Compressed files change a distance more than models do, and are read where `lossy` allows it.
    """

    folder: Path
    protocol: EvaluationProtocol
    prompts: Sequence[str] | None = None
    lossy: bool = False

    def identity(self) -> Mapping[str, Any]:
        """Names, sizes and times of all files."""
        files = [
            file
            for clip in self._clips
            for file in (sorted(clip.iterdir()) if clip.is_dir() else [clip])
        ]
        said = [
            (str(file.relative_to(self.folder)), file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
        ]
        prompts = None if self.prompts is None else short_digest(list(self.prompts))
        return {"files": short_digest(said), "frames": self.protocol.frames, "prompts": prompts}

    def words(self) -> str:
        """Name, and the endings of compressed files."""
        lossy = sorted({clip.suffix for clip in self._clips if clip.suffix.lower() in ENDINGS})
        form = f"LOSSY {', '.join(lossy)}" if lossy else "lossless files"
        return f"{self.folder.name}/, {form}"

    def __len__(self) -> int:
        return min(len(self._clips), self.protocol.clips)

    def size(self) -> tuple[int, int]:
        """Height and width of the first clip."""
        return first_size(self)

    def read(self, which: range) -> SomeClips:
        """First frames of some clips."""
        paths, frames = [self._clips[i] for i in which], self.protocol.frames
        decoded = iter(_decoded([path for path in paths if _is_compressed(path)], frames))
        clips = [
            next(decoded)
            if _is_compressed(path)
            else _checked(path, _read_clip(path, frames), frames)
            for path in paths
        ]
        return SomeClips(stack_clips(clips, self.folder), *self.captions(which))

    def captions(self, which: range) -> tuple[list[str], list[float]]:
        """Lines of the file of prompts."""
        if self.prompts is None:
            return [""] * len(which), [0.0] * len(which)
        return [self.prompts[i] for i in which], [0.0] * len(which)

    @cached_property
    def _clips(self) -> list[Path]:
        if not self.folder.is_dir():
            raise UserError(f"--made={self.folder}: no folder: give one with a clip in each entry")
        clips = [p for p in sorted(self.folder.iterdir()) if not p.name.startswith(".")]
        for clip in clips:
            suffix = clip.suffix.lower()
            if clip.is_dir() or suffix == ".npy":
                continue
            if suffix == ".png":
                raise UserError(
                    f"{clip}: one frame: --made is a folder of clips, each a folder of png"
                )
            if not _is_compressed(clip):
                raise UserError(f"{clip}: no clip: give folders of png, or .npy files alone")
            if not self.lossy:
                raise UserError(
                    f"{clip}: compression changes a distance more than models do: give folders of png "
                    "(sample --out=NAME/) or .npy, or --lossy to compare it all the same"
                )
        if len(clips) < 2:
            raise UserError(f"--made={self.folder}: {len(clips)} clips: give two or more")
        if self.prompts is not None and len(self.prompts) < min(len(clips), self.protocol.clips):
            raise UserError(
                f"--prompts: {len(self.prompts)} lines for {len(clips)} clips: give a line for each"
            )
        return clips


def open_folder(
    path: str, protocol: EvaluationProtocol, *, prompts: str, lossy: bool
) -> FolderClips:
    """The clips of `--made`. Errors: `UserError` for a folder or a file of `--prompts` that cannot be read."""
    lines = None
    if prompts:
        file = local_path(prompts, argument="--prompts")
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts={prompts}: cannot be read ({error})") from error
    return FolderClips(local_path(path, argument="--made"), protocol, lines, lossy)


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.is_dir()


def _decoded(paths: Sequence[Path], frames: int) -> Iterator[Clip]:
    """The first frames of compressed clips. Errors: `UserError` naming the file."""
    if not paths:
        return
    jobs = [DecodeJob(path, (0,), frames, (), None, ClipPart.START) for path in paths]
    with DecoderPool(_DECODERS) as pool:
        for path, answer in zip(paths, pool.clips(jobs), strict=True):
            if isinstance(answer, SkippedClip):
                raise UserError(f"{path}: {answer.reason}")
            yield answer.frames


def _read_clip(path: Path, frames: int) -> np.ndarray:
    """The first frames of an array, or of a folder of pictures. Errors: `UserError` naming the file."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".png"]
        if not files:
            raise UserError(f"{path}: a folder without .png files")
        pictures = [_picture(file) for file in files[:frames]]
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError(f"{path}: frames of several sizes: give frames of one size")
        return np.stack(pictures)
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[:frames])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _picture(file: Path) -> RGBFrame:
    try:
        return still_picture(file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _checked(path: Path, clip: np.ndarray, frames: int) -> Clip:
    """A clip that has the right form and enough frames. Errors: `UserError` naming the file."""
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
        raise UserError(f"{path}: {clip.dtype} {clip.shape}: a clip is uint8 (t, h, w, 3)")
    if len(clip) < frames:
        raise UserError(
            f"{path}: {len(clip)} frames of {frames}: make longer clips, or give --frames={len(clip)}"
        )
    return clip
