"""Frames of clip files, chosen by the time they are shown at, resized and cropped; one frame in memory at a time.

Files are what people have: headers lie about durations, frame rates vary, phones turn the picture. So the times are
those of the packets, and a rotation is applied. A `UserError` says why something cannot be had and leaves the file to
its caller: a data set keeps these reasons, and is the same wherever it is made.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageSequence

from magicvideo_jax.core.errors import UserError

LONGEST_SIDE, MOST_PIXELS = 2**14, 2**26
"""Of a frame, checked before it is decoded."""
MOVIES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
PICTURES = (".gif", ".webp", ".apng", ".png", ".jpg", ".jpeg")
ENDINGS = MOVIES + PICTURES

MOST_FRAMES = 2**22
"""Two days at 24 frames per second."""

RGBFrame = UInt8[np.ndarray, "h w 3"]
FrameSize = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Timeline:
    """When each frame of a file is shown."""

    moments: Float[np.ndarray, "n"]
    """Seconds since the first frame, ascending."""
    end: float
    """Seconds at which the last frame has been shown."""
    ticks: Int[np.ndarray, "n"] | None = None
    """The same times in the stream's own unit; none where a file does not tell its frames' times."""

    @property
    def rate(self) -> float:
        """Frames per second, on the average."""
        return len(self.moments) / self.end


def timeline(path: Path) -> Timeline:
    """Of a video, without decoding it, or of a picture, animated or not."""
    return _timeline_of_pictures(path) if _is_picture(path) else _timeline_of_video(path)


def choose_frames(
    shown: Timeline, rng: np.random.Generator, *, frames: int, fps_range: tuple[float, float]
) -> tuple[Int[np.ndarray, "t"], float]:
    """MagicVideo's look at a clip: a random part of it, `frames` frames at even distances, and their rate.

    The rate is within the range, and no higher than the clip's own, which would repeat frames; of a clip too slow for
    the range it is the clip's own. Errors: `UserError` where the clip has too few frames.
    """
    count, last = len(shown.moments), float(shown.moments[-1])
    if count < frames:
        raise UserError(f"too short: {count} frames, and {frames} are wanted")
    if frames == 1:
        return rng.integers(count, size=1), shown.rate
    slowest = min(last, (frames - 1) / fps_range[0])
    quickest = max((frames - 1) / fps_range[1], (frames - 1) * last / (count - 1))
    if quickest > last * (1 + 1e-9):
        raise UserError(
            f"too short: {last:.2f} s, and {frames} frames at {fps_range[1]:g} a second take {quickest:.2f} s"
        )
    length = min(last, rng.uniform(quickest, max(quickest, slowest)))
    start = rng.uniform(0, last - length)
    wanted = start + length * np.arange(frames) / (frames - 1)
    which = np.searchsorted(shown.moments, wanted + 1e-6, side="right") - 1
    return which, (frames - 1) / length


def read_frames(
    path: Path, shown: Timeline, which: Int[np.ndarray, "t"], sizes: Sequence[FrameSize]
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of these ascending numbers, turned as the file says, resized to cover the one of `sizes` whose
    proportions are nearest to their own (by averages where that is smaller) and cropped in the middle.

    Errors: `UserError` where one cannot be decoded.
    """
    ways = [_read_pictures(path, which, sizes)]
    if not _is_picture(path):
        # From the start where the key frame before the first does not lead to all of them.
        ways = [_read_video(path, shown, which, sizes, seeks=seeks) for seeks in (True, False)]
    frames: dict[int, RGBFrame] = {}
    for way in ways:
        frames = dict(way)
        if which[-1] in frames:
            return np.stack([frames[number] for number in which])
    missing = next(int(wanted) for wanted in which if wanted not in frames)
    raise UserError(f"damaged: frame {missing} of {len(shown.moments)} cannot be decoded")


def nearest_size(sizes: Sequence[FrameSize], height: int, width: int) -> FrameSize:
    """The one of most nearly these proportions; of two, the first."""
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] * height / width)))


def covering(height: int, width: int, *, target_height: int, target_width: int) -> tuple[int, int]:
    """The size nearest to the target, of the same proportions, that covers it."""
    scale = max(target_height / height, target_width / width)
    return max(target_height, round(height * scale)), max(target_width, round(width * scale))


def cropped(frame: UInt8[np.ndarray, "_h _w 3"], height: int, width: int) -> RGBFrame:
    """The middle."""
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _check_size(height: int, width: int) -> None:
    if not (
        0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE and height * width <= MOST_PIXELS
    ):
        raise UserError(
            f"frames of {width} x {height} pixels: at most {LONGEST_SIDE} a side and {MOST_PIXELS:,} in all"
        )


def _timeline_of_video(path: Path) -> Timeline:
    with _opened(path) as file:
        stream = _video_stream(file)
        times, lasts, packets = [], 0, 0
        for packet in _packets(file, stream):
            packets += 1
            if packets > MOST_FRAMES:
                raise UserError(f"more than {MOST_FRAMES:,} frames")
            if packet.pts is not None:
                times.append(packet.pts)
                lasts = max(lasts, packet.duration or 0)
        if not packets:
            raise UserError("holds no frames")
        unit = float(stream.time_base or 0)
        # AVI has no times of its own, and those that are made up for it lie about packed B-frames.
        if len(times) < packets or not unit or file.format.name == "avi":
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            if not rate > 0:
                raise UserError("does not say when its frames are shown")
            return Timeline(np.arange(packets) / rate, packets / rate)
        ticks = np.unique(np.array(times, np.int64))
        lasts = lasts or int(np.median(np.diff(ticks))) if len(ticks) > 1 else max(lasts, 1)
        seconds = (ticks - ticks[0]) * unit
        return Timeline(seconds, float(seconds[-1] + lasts * unit), ticks)


def _packets(file: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """As many as can be read: of a file that is cut off, those before the cut."""
    packets = file.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if packet.size and not packet.is_discard:
            yield packet


def _read_video(
    path: Path,
    shown: Timeline,
    which: Int[np.ndarray, "t"],
    sizes: Sequence[FrameSize],
    *,
    seeks: bool,
) -> Iterator[tuple[int, RGBFrame]]:
    """Number and pixels of each frame that is wanted, in order, until one cannot be had."""
    wanted, reformatter = sorted(set(which.tolist())), VideoReformatter()
    with _opened(path) as file:
        stream = _video_stream(file)
        stream.thread_type = "AUTO"
        if seeks and shown.ticks is not None:
            with suppress(FFmpegError):  # some formats cannot
                file.seek(int(shown.ticks[wanted[0]]), stream=stream, backward=True)
        for place, frame in enumerate(_frames(file, stream)):
            if shown.ticks is None:
                number = place
            elif frame.pts is None:
                return
            else:
                number = int(np.searchsorted(shown.ticks, frame.pts))
            if number > wanted[0] or (number == wanted[0] and frame.is_corrupt):
                return
            if number < wanted[0] or (shown.ticks is not None and shown.ticks[number] != frame.pts):
                continue
            pixels = _pixels(frame, reformatter, sizes, float(stream.sample_aspect_ratio or 1))
            sizes = (
                pixels.shape[:2],
            )  # frames of one clip are of one size, whatever its stream does
            yield wanted.pop(0), pixels
            if not wanted:
                return


def _frames(file: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """As many as can be decoded."""
    frames = file.decode(stream)
    while True:
        try:
            frame = next(frames)
        except (StopIteration, FFmpegError):
            return
        _check_size(frame.height, frame.width)
        yield frame


def _pixels(
    frame: av.VideoFrame, reformatter: VideoReformatter, sizes: Sequence[FrameSize], aspect: float
) -> RGBFrame:
    """Colour conversion and resizing in one pass, then turned and cropped. The reformatter is one for all frames, and
    one thread: to prepare the work, or to share it out, takes longer than the work."""
    quarters = round(frame.rotation / 90) % 4
    across, down = max(1, round(frame.width * aspect)), frame.height
    height, width = nearest_size(sizes, *((down, across) if quarters % 2 == 0 else (across, down)))
    target_height, target_width = (height, width) if quarters % 2 == 0 else (width, height)
    tall, wide = covering(down, across, target_height=target_height, target_width=target_width)
    smaller = tall * wide <= frame.height * frame.width
    how = Interpolation.AREA if smaller else Interpolation.BICUBIC
    pixels = reformatter.reformat(
        frame, wide, tall, format="rgb24", interpolation=how, threads=1
    ).to_ndarray()
    return cropped(np.rot90(pixels, quarters), height, width)


def _video_stream(file: InputContainer) -> av.VideoStream:
    if not file.streams.video:
        raise UserError("holds no video" + (" (sound alone)" if file.streams.audio else ""))
    stream = file.streams.video[0]
    _check_size(stream.codec_context.height, stream.codec_context.width)
    return stream


def _opened(path: Path) -> InputContainer:
    if not path.stat().st_size:
        raise UserError("is empty")
    try:
        return av.open(str(path))
    except FFmpegError as error:
        raise UserError(
            f"cannot be opened as a video ({error.strerror or type(error).__name__})"
        ) from error


def _timeline_of_pictures(path: Path) -> Timeline:
    milliseconds = [
        frame.info.get("duration") or 100 for frame in _pictures(path)
    ]  # browsers take 100 where unsaid
    ends = np.cumsum(milliseconds) / 1000
    return Timeline(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def _read_pictures(
    path: Path, which: Int[np.ndarray, "t"], sizes: Sequence[FrameSize]
) -> Iterator[tuple[int, RGBFrame]]:
    for number, frame in enumerate(_pictures(path)):
        if number in which:
            picture = frame.convert("RGBA")
            picture = Image.alpha_composite(
                Image.new("RGBA", picture.size, "white"), picture
            ).convert("RGB")
            height, width = nearest_size(sizes, picture.height, picture.width)
            tall, wide = covering(
                picture.height, picture.width, target_height=height, target_width=width
            )
            smaller = tall <= picture.height
            how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
            yield number, cropped(np.asarray(picture.resize((wide, tall), how)), height, width)
        if number >= which[-1]:
            return


def _pictures(path: Path) -> Iterator[Image.Image]:
    """As many as can be decoded. Errors: where not even the first can be."""
    if not path.stat().st_size:
        raise UserError("is empty")
    try:
        with Image.open(path) as file:
            _check_size(file.height, file.width)
            for number, frame in enumerate(ImageSequence.Iterator(file)):
                try:
                    frame.load()
                except (OSError, ValueError, SyntaxError, IndexError, EOFError) as error:
                    if number == 0:
                        raise UserError(f"cannot be decoded ({_said(error)})") from error
                    return
                yield frame
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot be opened as a picture ({_said(error)})") from error


def _said(error: Exception) -> str:
    """Without what Pillow adds: the path, which differs between machines."""
    return (
        "not a picture" if isinstance(error, Image.UnidentifiedImageError) else type(error).__name__
    )
