"""The page's own folder of clips: temporary, with names that cannot be guessed, and the oldest removed."""

import re
import secrets
import shutil
import tempfile
import threading
from pathlib import Path

CLIP_ENDINGS = ("mp4", "gif", "zip")
"""Endings of a clip's files; the zip holds its frames as png."""

_NAME = re.compile(r"[0-9a-f]{32}\.(mp4|gif|zip)")
_MOST_CLIPS = 400
"""Clips that are kept; each takes a megabyte or a few."""


class ResultFolder:
    """A context manager; leaving it removes the folder."""

    def __init__(self, most: int = _MOST_CLIPS):
        self._most, self._lock = most, threading.Lock()
        self.path = Path()

    def __enter__(self) -> "ResultFolder":
        self.path = Path(tempfile.mkdtemp(prefix="magicvideo_page_"))
        self._clips: list[str] = []
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def new_clip(self) -> str:
        """A name for a clip, whose files are NAME.mp4, NAME.gif and NAME.zip; makes room for it."""
        name = secrets.token_hex(16)
        with self._lock:
            self._clips.append(name)
            gone, self._clips = self._clips[: -self._most], self._clips[-self._most :]
        for old in gone:
            for ending in CLIP_ENDINGS:
                (self.path / f"{old}.{ending}").unlink(missing_ok=True)
        return name

    def file(self, name: str) -> Path | None:
        """The file of a name that a browser asks for; None for anything but a clip made here."""
        if not _NAME.fullmatch(name):
            return None
        path = self.path / name
        return path if path.is_file() and not path.is_symlink() else None
