"""Frames of still and animated pictures, by Pillow: upright, 8 bits a channel, over white."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import ExifTags, Image, ImageSequence

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

PICTURES = (".gif", ".webp", ".apng", ".png", ".jpg", ".jpeg")

_UNSAID_MILLISECONDS = 100
"""How long browsers show a frame whose file does not say it."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright."""


def picture_timeline(path: Path) -> Timeline:
    """Times of a picture's frames; a still picture has one. Errors: `UserError` with the reason."""
    milliseconds = [
        frame.info.get("duration") or _UNSAID_MILLISECONDS for frame, _ in _pictures(path)
    ]
    ends = np.cumsum(milliseconds) / 1000
    return Timeline(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def picture_size(path: Path) -> FrameSize:
    """Height and width of a picture. Errors: `UserError` with the reason."""
    frame, _ = next(_pictures(path))
    return frame.height, frame.width


def still_picture(path: Path) -> RGBFrame:
    """The first picture of a file, upright, at its own size. Errors: `UserError` with the reason."""
    return np.asarray(_upright(*next(_pictures(path))))


def picture_frames(
    path: Path, which: Int[np.ndarray, "t"], sizes: Sequence[FrameSize]
) -> Iterator[tuple[int, RGBFrame]]:
    """Index and pixels of the wanted frames, resized and cropped, as far as they can be decoded."""
    for number, (frame, turn) in enumerate(_pictures(path)):
        if number in which:
            picture = _upright(frame, turn)
            height, width = nearest_size(sizes, picture.height, picture.width)
            tall, wide = covering(
                picture.height, picture.width, target_height=height, target_width=width
            )
            smaller = tall <= picture.height
            how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
            yield number, cropped(np.asarray(picture.resize((wide, tall), how)), height, width)
        if number >= which[-1]:
            return


def _pictures(path: Path) -> Iterator[tuple[Image.Image, Image.Transpose | None]]:
    """Decodable frames, each with the turn that brings it upright. Errors: not even one frame."""
    if not path.stat().st_size:
        raise UserError("is empty")
    try:
        with Image.open(path) as file:
            check_frame_size(file.height, file.width)
            turn = _turn(file)
            # What follows the first picture of an MPO is another view of it: depth, a preview.
            frames = [file] if file.format == "MPO" else ImageSequence.Iterator(file)
            for number, frame in enumerate(frames):
                try:
                    frame.load()
                except (OSError, ValueError, SyntaxError, IndexError, EOFError) as error:
                    if number == 0:
                        raise UserError(f"cannot be decoded ({_reason(error)})") from error
                    return
                yield frame, turn
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot be opened as a picture ({_reason(error)})") from error


def _turn(file: Image.Image) -> Image.Transpose | None:
    with suppress(Exception):  # EXIF has many kinds of damage; viewers then show the picture as is
        return _TURNS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _upright(frame: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    picture = _over_white(frame)
    return picture if turn is None else picture.transpose(turn)


def _over_white(frame: Image.Image) -> Image.Image:
    picture = _eight_bits(frame).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _eight_bits(frame: Image.Image) -> Image.Image:
    """A grey picture of 16 bits scaled to 8, which Pillow would clip; others unchanged."""
    if frame.mode == "F":
        raise UserError("pixels are floating-point numbers: save it with 8 or 16 bits a channel")
    if not frame.mode.startswith("I"):
        return frame
    values = np.asarray(frame)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError("pixels have 32 bits: save it with 8 or 16 bits a channel")
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = frame.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _reason(error: Exception) -> str:
    """The error without the path that Pillow adds, which differs between machines."""
    unknown = isinstance(error, Image.UnidentifiedImageError)
    return "not a picture" if unknown else type(error).__name__
