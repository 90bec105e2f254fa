"""Clips as files: mp4, gif and folders of png out; whatever PyAV and Pillow open in.

A file appears whole or not at all: it is written aside, under a hidden name in the same folder, and then renamed.
"""

import math
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write

Frames = UInt8[np.ndarray, "t h w 3"]

SLOWEST, FASTEST = 0.1, 240.0
"""Frames per second that a file can hold in every format, the limits included."""
ANIMATED_IMAGES = (".gif", ".webp")


def save_video(clip: UInt8[np.ndarray, "t h w 3"], path: str | Path, *, fps: float | int) -> None:
    """Write a clip, in the format that the ending of `path` names; missing folders on the way are made.

    * `.mp4`: h264, yuv420p, which every browser plays. An odd side gets its last row or column twice.
    * `.gif`: one palette of 256 colours for the clip; loops. Frames change on hundredths of a second, the unit of the
      format, so they last unequally where 100 / fps is not whole, and more than 50 a second play as 50.
    * no ending, or a `/` behind it: a folder of `frame_0000.png`, lossless, which knows no fps. It takes the place of
      an earlier folder of frames; a folder with anything else in it is left alone.

    Errors: `UserError` for an empty clip, another ending, an fps outside 0.1 .. 240, and whatever keeps the file from
    being written (no permission, no space), with nothing left behind.
    """
    check_ending(path)
    where = Path(path)
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        raise UserError(
            f"{path}: a clip is uint8 frames (t, h, w, 3), at least one, not {clip.dtype} {clip.shape}"
        )
    if not SLOWEST <= fps <= FASTEST:
        raise UserError(
            f"{path}: fps={fps}: give frames per second between {SLOWEST:g} and {FASTEST:g}"
        )
    if _is_folder(path):
        _replace_folder(clip, where)
        return
    write = _write_mp4 if where.suffix.lower() == ".mp4" else _write_gif
    with atomic_write(where) as aside:
        write(clip, aside, fps)


def check_ending(path: str | Path) -> None:
    """`UserError` where `save_video` knows no format for the name; asked before anything long begins."""
    if not _is_folder(path) and Path(path).suffix.lower() not in (".mp4", ".gif"):
        raise UserError(f"{path}: give a name ending in .mp4 or .gif, or in / for a folder of png")


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep)) or not Path(path).suffix


def adapted_palette(picture: Image.Image) -> Image.Image:
    """The 256 colours that serve a picture best, for `Image.quantize(palette=...)`: about 43 dB on drawn clips with a
    decoder's texture. Learned from at most 2^16 pixels, since its time grows with them (0.4 s, not 25, for a photo)."""
    share = min(1.0, math.sqrt(2**16 / (picture.width * picture.height)))
    size = (max(1, int(share * picture.width)), max(1, int(share * picture.height)))
    sample = picture.resize(size, Image.Resampling.NEAREST)
    return sample.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)


def read_video(path: str | Path) -> tuple[Frames, float]:
    """All frames of a video file or an animated gif or webp, and its frames per second.

    A video's frames are taken as evenly spaced in time. An animation's frame that is shown k times as long as its
    shortest counts k times, and where it is transparent it is white.

    Errors: `UserError` where there is no such file, or nothing in it that can be decoded.
    """
    read = _read_animation if Path(path).suffix.lower() in ANIMATED_IMAGES else _read_stream
    try:
        frames, fps = read(Path(path))
    except (OSError, ValueError) as error:  # ValueError: what PyAV calls invalid data
        raise UserError(
            f"{path} cannot be read as a video: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not frames or not fps:
        raise UserError(
            f"{path} cannot be read as a video: it holds no frames, or does not say how fast they are"
        )
    return np.stack(frames), fps


def _write_mp4(clip: Frames, aside: Path, fps: float | int) -> None:
    height, width = clip.shape[1:3]
    even = np.pad(
        clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"
    )  # 4:2:0 halves both sides
    rate = Fraction(fps).limit_denominator(1001)
    # faststart puts the index first, so that a browser begins before it has the whole file.
    with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        # Said in the file, since players guess differently where it is not.
        stream.codec_context.colorspace, stream.codec_context.color_range = (
            Colorspace.ITU709,
            ColorRange.MPEG,
        )
        stream.codec_context.color_primaries, stream.codec_context.color_trc = (
            ColorPrimaries.BT709,
            ColorTrc.BT709,
        )
        for moment, pixels in enumerate(even):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = moment, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _write_gif(clip: Frames, aside: Path, fps: float | int) -> None:
    palette = adapted_palette(Image.fromarray(rearrange(clip, "t h w c -> (t h) w c")))
    # No dithering: its pattern would crawl from frame to frame, and the clip's own palette fits well.
    first, *others = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in clip
    ]
    changes = np.round(
        np.arange(len(clip) + 1) * 100 / min(fps, 50)
    )  # rounded moments, so that errors do not add up
    milliseconds = (10 * np.diff(changes)).astype(int).tolist()
    first.save(aside, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)


def _replace_folder(clip: Frames, path: Path) -> None:
    with atomic_write(path) as aside:
        if path.is_dir():
            stranger = next(
                (file.name for file in path.iterdir() if not file.match("frame_[0-9]*.png")), None
            )
            if stranger is not None:
                raise UserError(f"{path}/ holds {stranger}, which is no frame: give a new folder")
        aside.mkdir()
        for place, frame in enumerate(clip):
            Image.fromarray(frame).save(aside / f"frame_{place:04d}.png", optimize=True)
        if path.is_dir():
            shutil.rmtree(path)  # a rename replaces only an empty folder


def _read_stream(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as file:
        if not file.streams.video:
            return [], 0.0
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        height, width = stream.height, stream.width  # a stream may change size midway
        frames = [
            f.to_ndarray(format="rgb24", height=height, width=width) for f in file.decode(stream)
        ]
        return frames, float(stream.average_rate or stream.guessed_rate or 0)


def _read_animation(path: Path) -> tuple[list[np.ndarray], float]:
    shown, milliseconds = [], []
    with Image.open(path) as file:
        for frame in ImageSequence.Iterator(file):
            picture = frame.convert("RGBA")
            shown.append(
                np.asarray(
                    Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
                )[..., :3]
            )
            milliseconds.append(
                frame.info.get("duration") or 100
            )  # 0 means unsaid; browsers then take 100
    lasts = np.array(milliseconds, float)
    step = float(
        lasts[lasts <= lasts.min() + 10].mean()
    )  # 40, 40, 50 ms is a gif of 24 frames per second
    return [
        f for f, time in zip(shown, lasts, strict=True) for _ in range(round(time / step))
    ], 1000 / step
