"""Text inside the files of clips: the settings that a clip was made with."""

import io
import zipfile
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from magicvideo_jax.core.files import atomic_write

PNG_KEY = "Comment"
"""Keyword of the text in a png; the PNG standard names it for this use."""


def write_png_archive(clip: UInt8[np.ndarray, "t h w 3"], path: Path, *, comment: str = "") -> None:
    """Write a zip of `frame_0000.png`, lossless; the comment is in every frame."""
    text = PngInfo()
    if comment:
        text.add_itxt(PNG_KEY, comment)
    with (
        atomic_write(path) as aside,
        # A png is compressed already.
        zipfile.ZipFile(aside, "w", compression=zipfile.ZIP_STORED) as archive,
    ):
        for place, frame in enumerate(clip):
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "PNG", pnginfo=text)
            archive.writestr(f"frame_{place:04d}.png", file.getvalue())


def read_comment(path: Path) -> str:
    """The comment of an mp4, gif or png, or of the first frame in a zip of png; empty: none."""
    match path.suffix.lower():
        case ".mp4":
            with av.open(str(path)) as file:
                return file.metadata.get("comment", "")
        case ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
                return _picture_comment(Image.open(file))
        case _:
            with Image.open(path) as picture:
                return _picture_comment(picture)


def _picture_comment(picture: Image.Image) -> str:
    found = picture.info.get("comment", picture.info.get(PNG_KEY, ""))
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
