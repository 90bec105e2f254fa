"""Frames of video files, by FFmpeg: upright, square pixels, 8 bits a channel, over white.

Headers lie about durations and frame rates vary, so times are those of the packets.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Int

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.framing import (
    FrameSize,
    RGBFrame,
    check_frame_size,
    covering,
    cropped,
    nearest_size,
)
from magicvideo_jax.media.timeline import Timeline

MOVIES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
)

MOST_FRAMES = 2**22
"""Two days at 24 frames per second."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that keep the alpha channel of WebM, by the codec whose native decoder drops it."""


def movie_timeline(path: Path) -> Timeline:
    """Times of a video's frames, read without decoding. Errors: `UserError` with the reason."""
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


def movie_size(path: Path) -> FrameSize:
    """Height and width of a video's frames. Errors: `UserError` with the reason."""
    with _opened(path) as file:
        stream = _video_stream(file)
        return stream.codec_context.height, stream.codec_context.width


def movie_frames(
    path: Path,
    timeline: Timeline,
    which: Int[np.ndarray, "t"],
    sizes: Sequence[FrameSize],
    *,
    seeks: bool,
) -> Iterator[tuple[int, RGBFrame]]:
    """Index and pixels of the wanted frames in order, until one cannot be decoded."""
    wanted, reformatter = sorted(set(which.tolist())), VideoReformatter()
    with _opened(path) as file:
        stream = _video_stream(file)
        stream.thread_type = "AUTO"
        if seeks and timeline.ticks is not None:
            with suppress(FFmpegError):  # some formats cannot
                file.seek(int(timeline.ticks[wanted[0]]), stream=stream, backward=True)
        for place, frame in enumerate(_frames(file, stream)):
            if timeline.ticks is None:
                number = place
            elif frame.pts is None:
                return
            else:
                number = int(np.searchsorted(timeline.ticks, frame.pts))
            if number > wanted[0] or (number == wanted[0] and frame.is_corrupt):
                return
            if number < wanted[0] or (
                timeline.ticks is not None and timeline.ticks[number] != frame.pts
            ):
                continue
            pixels = _pixels(frame, reformatter, sizes, float(stream.sample_aspect_ratio or 1))
            # All frames of a clip get the size of its first, whatever the stream does.
            sizes = (pixels.shape[:2],)
            yield wanted.pop(0), pixels
            if not wanted:
                return


def _opened(path: Path) -> InputContainer:
    if not path.stat().st_size:
        raise UserError("is empty")
    try:
        # FFmpeg takes what stands before a colon for a protocol, unless one is named.
        return av.open(f"file:{path}")
    except FFmpegError as error:
        raise UserError(
            f"cannot be opened as a video ({error.strerror or type(error).__name__})"
        ) from error


def _video_stream(file: InputContainer) -> av.VideoStream:
    if not file.streams.video:
        raise UserError("holds no video" + (" (sound alone)" if file.streams.audio else ""))
    stream = file.streams.video[0]
    check_frame_size(stream.codec_context.height, stream.codec_context.width)
    return stream


def _packets(file: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Readable packets: those before the cut in a truncated file."""
    packets = file.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if packet.size and not packet.is_discard:
            yield packet


def _frames(file: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Decodable frames."""
    decoder = _alpha_decoder(stream)
    frames = (
        file.decode(stream)
        if decoder is None
        else (frame for packet in file.demux(stream) for frame in decoder.decode(packet))
    )
    while True:
        try:
            frame = next(frames)
        except (StopIteration, FFmpegError):
            return
        check_frame_size(frame.height, frame.width)
        yield frame


def _alpha_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or tags.get("alpha_mode") != "1":
        return None
    try:
        decoder = av.CodecContext.create(name, "r")
    except (ValueError, FFmpegError):  # an FFmpeg built without libvpx
        return None
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _pixels(
    frame: av.VideoFrame, reformatter: VideoReformatter, sizes: Sequence[FrameSize], aspect: float
) -> RGBFrame:
    """One frame in colours, resized, turned and cropped.

    The reformatter is shared by all frames and uses one thread: setting it up, or dividing the
    work, takes longer than the work.
    """
    quarters = round(frame.rotation / 90) % 4
    across, down = max(1, round(frame.width * aspect)), frame.height
    height, width = nearest_size(sizes, *((down, across) if quarters % 2 == 0 else (across, down)))
    target_height, target_width = (height, width) if quarters % 2 == 0 else (width, height)
    tall, wide = covering(down, across, target_height=target_height, target_width=target_width)
    smaller = tall * wide <= frame.height * frame.width
    how = Interpolation.AREA if smaller else Interpolation.BICUBIC
    pixels = reformatter.reformat(
        _over_white(frame), wide, tall, format="rgb24", interpolation=how, threads=1
    ).to_ndarray()
    return cropped(np.rot90(pixels, quarters), height, width)


def _over_white(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame without alpha as it is; else blended before it is resized, or hidden colours leak."""
    kind = frame.format
    if not kind.has_palette and not any(part.is_alpha for part in kind.components):
        return frame
    rgba = frame.reformat(format="rgba").to_ndarray().astype(np.uint16)
    alpha = rgba[..., 3:]
    blended = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(blended.astype(np.uint8), format="rgb24")
