"""Clips on one picture or in one clip, with their captions: frames from left to right, or moving."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write
from magicvideo_jax.media.clip_files import adapted_palette

PAPER, INK = (255, 255, 255), (70, 74, 82)
MARGIN, GAP, LETTERS = 20, 4, 15
"""Pixels around the sheet and between frames, and the height of the letters."""
_MARK, _MARK_WITHIN = "magicvideo_jax contact sheet", 256
"""The text in a sheet's file, and the first bytes that hold it."""


def contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "_t _h _w 3"]],
    captions: Sequence[str],
    *,
    columns: int = 8,
    side: int = 128,
) -> Image.Image:
    """Each clip as a strip of at most `columns` evenly spaced frames, with its caption.

    Strips shorter than `columns` share a row: single pictures make a grid. Small frames are
    enlarged by the largest whole number that keeps their longer side within `side` pixels; larger
    frames are reduced to it.

    Errors: `UserError` without clips, or with another number of captions than of clips.
    """
    if not clips or len(clips) != len(captions):
        raise UserError(
            f"a contact sheet has one caption a clip: {len(clips)} clips, {len(captions)} captions"
        )
    strips = [_strip(clip, columns, side) for clip in clips]
    width = max(strip.width for strip in strips)
    cells = [
        _captioned(strip, caption, width) for strip, caption in zip(strips, captions, strict=True)
    ]
    across = max(1, columns // min(columns, max(len(clip) for clip in clips)))
    rows = [cells[i : i + across] for i in range(0, len(cells), across)]

    heights = [max(cell.height for cell in row) for row in rows]
    across = min(across, len(cells))
    sheet = Image.new(
        "RGB", (2 * MARGIN + across * (width + GAP) - GAP, 2 * MARGIN + sum(heights) - GAP), PAPER
    )
    for top, row in zip(np.cumsum([0, *heights]).tolist(), rows, strict=False):
        for place, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + place * (width + GAP), MARGIN + top))
    return sheet


def moving_sheet(
    clips: Sequence[UInt8[np.ndarray, "t _h _w 3"]],
    captions: Sequence[str],
    *,
    columns: int = 4,
    side: int = 128,
) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip of all clips at once, `columns` in a row, each over its caption.

    Errors: those of `contact_sheet`.
    """
    moments = range(len(clips[0]) if clips else 1)
    sheets = [
        contact_sheet([clip[i : i + 1] for clip in clips], captions, columns=columns, side=side)
        for i in moments
    ]
    return np.stack([np.asarray(sheet) for sheet in sheets])


def save_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as a PNG of 256 colours, a quarter of the size of one in full colour.

    The file says what it is, so that no one takes it for a clip (`is_contact_sheet`). Errors:
    `UserError` naming path and cause.
    """
    mark = PngInfo()
    mark.add_text("Software", _MARK)
    with atomic_write(Path(path)) as aside:
        few = sheet.quantize(palette=adapted_palette(sheet), dither=Image.Dither.NONE)
        few.save(aside, "PNG", optimize=True, pnginfo=mark)


def is_contact_sheet(path: Path) -> bool:
    """Whether `save_sheet` wrote a file."""
    try:
        with path.open("rb") as file:
            return _MARK.encode() in file.read(_MARK_WITHIN)
    except OSError:
        return False


def _strip(clip: UInt8[np.ndarray, "t h w 3"], columns: int, side: int) -> Image.Image:
    """Some frames side by side."""
    number = min(columns, len(clip))
    # Equal steps, or even motion would look uneven.
    chosen = clip[np.arange(number) * len(clip) // number]
    frames = [_sized(Image.fromarray(frame), side) for frame in chosen]
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), PAPER)
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * (width + GAP), 0))
    return strip


def _sized(frame: Image.Image, side: int) -> Image.Image:
    longer = max(frame.size)
    if longer > side:
        width, height = (max(1, round(pixels * side / longer)) for pixels in frame.size)
        return frame.resize((width, height), Image.Resampling.LANCZOS)
    factor = side // longer
    return frame.resize((factor * frame.width, factor * frame.height), Image.Resampling.NEAREST)


def _captioned(strip: Image.Image, caption: str, width: int) -> Image.Image:
    """A strip above its caption, which is broken into lines of the strip's width."""
    font = ImageFont.load_default(size=LETTERS)
    lines = _lines(caption, width - LETTERS // 2, font)
    line_height = round(1.3 * LETTERS)
    cell = Image.new("RGB", (width, strip.height + len(lines) * line_height + LETTERS + GAP), PAPER)
    cell.paste(strip, (0, 0))
    draw = ImageDraw.Draw(cell)
    for place, line in enumerate(lines):
        draw.text((1, strip.height + 4 + place * line_height), line, fill=INK, font=font)
    return cell


def _lines(
    caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """A caption as lines, each with as many words as fit."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
