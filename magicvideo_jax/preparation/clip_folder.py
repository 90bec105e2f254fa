"""The clips below a folder, the text files among them, and a count of everything that is passed over.

Linked folders are followed; a folder that several ways lead to is read once, so loops end and no
clip enters a set twice.
"""

import os
import unicodedata
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.contact_sheet import is_contact_sheet
from magicvideo_jax.media.frame_reader import ENDINGS

SHEET_SUFFIX = "-check.png"
"""What `prepare --check` appends to the name of a data set to name its contact sheet."""


@dataclass(frozen=True)
class LeftOut:
    """Files or captions that do not enter a data set, for one reason."""

    reason: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count} {self.reason}, such as {self.example}"


@dataclass
class ClipFolder:
    """What a folder holds, by names that are the same on every machine (see `canonical_name`)."""

    path: Path
    clips: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)
    """Files whose name ends in .txt, in any case."""
    linked: int = 0
    """Clips that were reached through a linked folder."""
    _left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By reason, the number of names and the first of them in the alphabet."""

    def leave_out(self, reason: str, names: Iterable[str]) -> None:
        """Count files or captions that are passed over."""
        for name in names:
            count, first = self._left_out.get(reason, (0, name))
            self._left_out[reason] = count + 1, min(first, name)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return tuple(
            LeftOut(reason, count, printable(first))
            for reason, (count, first) in sorted(self._left_out.items())
        )


def scan_folder(folder: Path, *, ignored: Collection[Path] = ()) -> ClipFolder:
    """Find all clips and text files below a folder. `ignored` files and folders are the caller's own.

    Errors: `UserError` where the folder is missing or unreadable, and for two clips whose names
    differ only in their Unicode form.
    """
    if not folder.is_dir():
        raise UserError(
            f"--videos={folder}: {'not a folder' if folder.exists() else 'no such folder'}"
        )
    found = ClipFolder(folder)
    own = {os.path.realpath(path) for path in ignored}
    read: set[str] = set()
    # Folders before links: a clip gets the name under which it really lies.
    folders, links = deque([("", False)]), deque[tuple[str, bool]]()
    while folders or links:
        name, is_linked = (folders or links).popleft()
        path = os.path.join(folder, name)
        real = os.path.realpath(path)
        if real in read:
            found.leave_out("links to folders that are read anyway", [name])
            continue
        read.add(real)
        entries = _entries(path)
        if real in own or (name and _is_output(entries)):
            found.leave_out("outputs of this program", [name])
            continue
        for entry in entries:
            inside = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith("."):
                found.leave_out("hidden files and folders", [inside])
            elif not _is_folder(entry):
                _add_file(found, Path(entry.path), inside, is_linked=is_linked, own=own)
            elif entry.is_symlink():
                links.append((inside, True))
            else:
                folders.append((inside, is_linked))
    return found


def canonical_name(name: str) -> str:
    """A name with composed accents (Unicode NFC): macOS unpacks archives with decomposed ones."""
    return unicodedata.normalize("NFC", name)


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: file names and JSON escapes may hold more."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name on one line: control characters and bytes that are not UTF-8 as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _add_file(
    found: ClipFolder, path: Path, name: str, *, is_linked: bool, own: Collection[str]
) -> None:
    ending = path.suffix.lower()
    if not is_utf8(name):
        found.leave_out("files whose names are not UTF-8 (rename them)", [name])
    elif path.name.endswith(SHEET_SUFFIX) and (_is_own(path, own) or is_contact_sheet(path)):
        found.leave_out("outputs of this program", [name])
    elif _is_own(path, own):
        return  # a table of captions is not passed over
    elif ending not in (*ENDINGS, ".txt"):
        found.leave_out("files of other kinds", [name])
    elif not path.is_file():
        found.leave_out("links to nothing, and what is neither file nor folder", [name])
    else:
        kind = found.texts if ending == ".txt" else found.clips
        canonical = canonical_name(name)
        if canonical in kind:
            raise UserError(
                f"{path} and {kind[canonical].name} differ only in the Unicode form of their names "
                "(composed and decomposed accents): rename or remove one"
            )
        kind[canonical] = path
        found.linked += is_linked and ending != ".txt"


def _is_own(path: Path, own: Collection[str]) -> bool:
    # Names first: to resolve the links of every file would take longer than all the rest.
    return any(path.name == os.path.basename(other) for other in own) and (
        os.path.realpath(path) in own
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"--videos: {folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_output(entries: Collection[os.DirEntry[str]]) -> bool:
    """Whether these are the contents of a data set or of a work folder."""
    names = {entry.name for entry in entries}
    return {"prepare.json", "shards"} <= names or {"config.json", "checkpoints"} <= names


def stem(name: str) -> str:
    """A name without its ending."""
    return PurePosixPath(name).with_suffix("").as_posix()
