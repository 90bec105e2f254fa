"""Clips written as files: mp4, gif, and folders of png.

A file appears whole or not at all: it is written under a hidden name in the same folder and then
renamed.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write, check_writable
from magicvideo_jax.core.paths import local_path

ClipFrames = UInt8[np.ndarray, "t h w 3"]

SLOWEST, FASTEST = 0.1, 240.0
"""Limits of frames per second that every format can store."""


ClipWriter = Callable[[ClipFrames], None]
"""Adds frames to the end of a clip."""


def save_video(
    clip: UInt8[np.ndarray, "t h w 3"], path: str | Path, *, fps: float | int, comment: str = ""
) -> None:
    """Write a clip in the format that the ending of `path` names; missing folders are created.

    * `.mp4`: h264, yuv420p, which every browser plays. An odd side repeats its last row or column.
    * `.gif`: one palette of 256 colours for the clip; loops. The format's unit of time is 1/100 s,
      so frames last unequally where 100 / fps is not whole, and more than 50 a second play as 50.
    * no ending, or a `/` behind it: a folder of `frame_0000.png`, lossless, without a frame rate.
      It replaces an earlier folder of frames; a folder with anything else in it is left alone.

    A `comment` becomes part of an mp4 or a gif (`clip_comment.py` reads it).
    Errors: `UserError` for an empty clip, another ending, an fps outside 0.1 .. 240, and whatever
    prevents the file from being written (no permission, no space), with nothing left behind.
    """
    with clip_writer(path, fps=fps, comment=comment) as write:
        write(clip)


@contextmanager
def clip_writer(
    path: str | Path, *, fps: float | int, comment: str = ""
) -> Iterator[Callable[[ClipFrames], None]]:
    """The same for a clip that comes in parts: a function that adds frames of one size.

    The file appears when the block ends well. An mp4 and a folder hold no frame that is written; a
    gif holds all, of which its palette is made. Errors: those of `save_video`.
    """
    where = check_clip_target(path)
    if not SLOWEST <= fps <= FASTEST:
        raise UserError(
            f"{path}: fps={fps}: give frames per second between {SLOWEST:g} and {FASTEST:g}"
        )
    is_folder = _is_folder(path)
    size: tuple[int, ...] = ()
    with atomic_write(where, replaces_folder=is_folder) as aside:
        if is_folder:
            writing = _folder_writer(aside)
        elif where.suffix.lower() == ".mp4":
            writing = _mp4_writer(aside, fps, comment)
        else:
            writing = _gif_writer(aside, fps, comment)
        with writing as add:

            def write(clip: ClipFrames) -> None:
                nonlocal size
                _check_frames(clip, size, path)
                size = clip.shape[1:]
                add(clip)

            yield write
            if not size:
                raise UserError(f"{path}: a clip has at least one frame")


def _check_frames(clip: ClipFrames, size: tuple[int, ...], path: str | Path) -> None:
    """Errors: `UserError` for what are no frames, or none of the `size` of those before."""
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        raise UserError(
            f"{path}: a clip is uint8 frames (t, h, w, 3), at least one, "
            f"not {clip.dtype} {clip.shape}"
        )
    if size and clip.shape[1:] != size:
        raise UserError(f"{path}: frames {clip.shape[1:]} after frames {size}: give one size")


def check_clip_target(path: str | Path, *, argument: str = "path") -> Path:
    """The place where `save_video` would write `path`; ask it before anything long begins.

    Errors: `UserError` for an unknown ending, a place below a file or without permission, a folder
    in the place of a file, and a folder that holds other things than frames.
    """
    where = local_path(path, argument=argument)
    if not where.name:
        raise UserError(f"{argument}={path}: give the name of a file or folder")
    if not _is_folder(path):
        if where.suffix.lower() not in (".mp4", ".gif"):
            raise UserError(
                f"{path}: give a name ending in .mp4 or .gif, or in / for a folder of png"
            )
        check_writable(where)
        return where
    check_writable(where, folder=True)
    if where.is_dir():
        other = next(
            (file.name for file in where.iterdir() if not file.match("frame_[0-9]*.png")), None
        )
        if other is not None:
            raise UserError(f"{where}/ holds {other}, which is no frame: give a new folder")
    return where


def numbered_targets(path: str | Path, count: int, *, argument: str = "path") -> list[str]:
    """Names for several clips: clip.mp4 for one, clip_0.mp4, clip_1.mp4 .. for more. A / at the end stays.

    Errors: `UserError` for a path without a name.
    """
    if count == 1:
        return [str(path)]
    where = local_path(path, argument=argument)
    if not where.name:
        raise UserError(f"{argument}={path}: give the name of a file or folder")
    end = "/" if str(path).endswith("/") else ""
    stem, suffix = (where.name, "") if end else (where.stem, where.suffix)
    return [f"{where.with_name(f'{stem}_{i}{suffix}')}{end}" for i in range(count)]


def usual_bytes(path: str | Path, frames: int, height: int, width: int) -> int:
    """Size of the file or folder that such a photographed clip becomes. Drawn ones need far less."""
    per_pixel = _BYTES_PER_PIXEL["" if _is_folder(path) else Path(path).suffix.lower()]
    return int(frames * height * width * per_pixel)


_BYTES_PER_PIXEL = {".mp4": 0.1, ".gif": 0.7, "": 1.5}
"""Pure noise needs 0.8, 1.4 and 3.0."""


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep)) or not Path(path).suffix


def adapted_palette(picture: Image.Image) -> Image.Image:
    """The 256 colours that fit a picture best, for `Image.quantize(palette=...)`.

    About 43 dB on drawn clips with a decoder's texture. Learned from at most 2^16 pixels: its time
    grows with them (0.4 s instead of 25 s for a photo).
    """
    share = min(1.0, math.sqrt(2**16 / (picture.width * picture.height)))
    size = (max(1, int(share * picture.width)), max(1, int(share * picture.height)))
    sample = picture.resize(size, Image.Resampling.NEAREST)
    return sample.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)


@contextmanager
def _mp4_writer(aside: Path, fps: float | int, comment: str) -> Iterator[ClipWriter]:
    rate, moments = Fraction(fps).limit_denominator(1001), count()
    # faststart puts the index first, so that a browser begins before it has the whole file.
    with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as file:
        if comment:
            file.metadata["comment"] = comment
        stream = file.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        # Written into the file: without it, players guess differently.
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709

        def write(clip: ClipFrames) -> None:
            # 4:2:0 halves both sides.
            odd = ((0, clip.shape[1] % 2), (0, clip.shape[2] % 2), (0, 0))
            for frame in clip:
                pixels = np.pad(frame, odd, mode="edge")
                if not stream.codec_context.is_open:  # the first frame tells the size
                    stream.height, stream.width = pixels.shape[:2]
                shown = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                shown.pts, shown.time_base = next(moments), 1 / rate
                file.mux(stream.encode(shown))

        yield write
        if stream.codec_context.is_open:
            file.mux(stream.encode())


@contextmanager
def _gif_writer(aside: Path, fps: float | int, comment: str) -> Iterator[ClipWriter]:
    parts: list[ClipFrames] = []
    yield parts.append
    if not parts:
        return
    clip = np.concatenate(parts)
    palette = adapted_palette(Image.fromarray(rearrange(clip, "t h w c -> (t h) w c")))
    # No dithering: its pattern would crawl from frame to frame.
    first, *others = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in clip
    ]
    # Moments are rounded instead of durations, so that errors do not add up.
    changes = np.round(np.arange(len(clip) + 1) * 100 / min(fps, 50))
    milliseconds = (10 * np.diff(changes)).astype(int).tolist()
    about = {"comment": comment.encode()} if comment else {}
    first.save(
        aside, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, **about
    )


@contextmanager
def _folder_writer(aside: Path) -> Iterator[ClipWriter]:
    aside.mkdir()
    places = count()

    def write(clip: ClipFrames) -> None:
        for frame in clip:
            name = f"frame_{next(places):04d}.png"
            Image.fromarray(frame).save(aside / name, optimize=True)

    yield write
