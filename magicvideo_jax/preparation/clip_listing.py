"""Which clips there are, and what is said of each: a folder, with a table or with a text file beside each clip.

Tables: .csv, .tsv (a header with `video` and `caption`), .jsonl (the same names, or a list `captions`), and WebVid's
CSV (`videoid`, `page_dir`, `name`). Several rows of a clip are several captions; a clip without one is unlabelled.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.frame_reader import ENDINGS

"""What is taken for a clip; a picture is a clip of one frame."""
LONGEST_CAPTION = 10_000
WEBVID = {"videoid", "page_dir", "name"}


@dataclass(frozen=True)
class Entry:
    """A clip."""

    name: str
    """Its path below the folder of clips, with forward slashes: unique, and the same on every machine."""
    path: Path
    captions: tuple[str, ...]
    """None of an unlabelled clip."""


@dataclass(frozen=True)
class Listing:
    """All clips, by name."""

    entries: tuple[Entry, ...]
    unnamed: int = 0
    """Clips in the folder that the table does not name: left out."""
    absent: int = 0
    """Rows of a WebVid table whose clip was not downloaded."""


CaptionRow = tuple[int, Mapping[str, Any]]
"""The line where it begins, from 1, and its fields by lower-case name."""


def list_clips(videos: Path, captions: Path | None) -> Listing:
    """The clips below `videos`, with the captions of a table, or of a .txt beside each.

    Errors: `UserError` names the folder, or the table and its row: nothing there, unreadable, a missing column, a row
    without its clip, a clip under two names.
    """
    found = _clips_below(videos)
    if not found:
        raise UserError(f"--videos={videos}: no clips there ({', '.join(ENDINGS)})")
    if captions is None:
        return Listing(
            tuple(Entry(name, path, _beside(path)) for name, path in sorted(found.items()))
        )
    said, absent = _said(captions, videos, found)
    entries = tuple(Entry(name, found[name], tuple(said[name])) for name in sorted(said))
    if not entries:
        raise UserError(f"--captions={captions}: names no clip of --videos={videos}")
    return Listing(entries, unnamed=len(found) - len(entries), absent=absent)


def _clips_below(videos: Path) -> dict[str, Path]:
    """By name; hidden files and folders are passed over, links out of the folder too."""
    if not videos.is_dir():
        raise UserError(
            f"--videos={videos}: {'not a folder' if videos.exists() else 'no such folder'}"
        )

    def complain(error: OSError) -> None:
        raise UserError(f"--videos: {error.filename} cannot be read: {error.strerror}") from error

    found = {}
    for folder, inside, files in os.walk(videos, onerror=complain):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for file in files:
            path = Path(folder, file)
            if not file.startswith(".") and path.suffix.lower() in ENDINGS and path.is_file():
                found[path.relative_to(videos).as_posix()] = path
    return found


def _beside(clip: Path) -> tuple[str, ...]:
    """The lines of the text file of the same name."""
    path = clip.with_suffix(".txt")
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text (UTF-8): {error}") from error
    return tuple(
        _checked(line.strip(), f"{path}, line {i}")
        for i, line in enumerate(lines, 1)
        if line.strip()
    )


def _said(
    captions: Path, videos: Path, found: Mapping[str, Path]
) -> tuple[dict[str, list[str]], int]:
    """Captions by the name of their clip, and how many rows name a clip that WebVid has and this folder has not."""
    by_stem: dict[str, list[str]] = {}
    for name in found:
        by_stem.setdefault(PurePosixPath(name).with_suffix("").as_posix(), []).append(name)
    said: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    absent = 0
    for line, row in _rows(captions):
        where = f"--captions={captions}, row at line {line}"
        webvid = row.keys() >= WEBVID and "video" not in row
        if webvid:
            asked = [f"{row['page_dir']}/{row['videoid']}.mp4", f"{row['videoid']}.mp4"]
            name = next((text for text in asked if text in found), None)
            if name is None:
                absent += 1
                continue
            texts = [row["name"]]
        else:
            asked = [_field(row, "video", where)]
            name = _resolved(asked[0], found, by_stem, videos, where)
            texts = row["captions"] if "captions" in row else [_field(row, "caption", where)]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{where}: captions is no list of texts")
        if spelled.setdefault(name, asked[0]) != asked[0] and not webvid:
            raise UserError(
                f"{where}: {asked[0]} is the clip that an earlier row calls {spelled[name]}: name it alike"
            )
        kept = said.setdefault(name, [])
        kept += [
            _checked(text.strip(), where)
            for text in texts
            if text.strip() and text.strip() not in kept
        ]
    return said, absent


def _field(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise UserError(
            f"{where}: no {name} (it has {', '.join(str(field) for field in row) or 'nothing'})"
        )
    return value


def _resolved(
    text: str, found: Mapping[str, Path], by_stem: Mapping[str, list[str]], videos: Path, where: str
) -> str:
    """The name of the clip that a row means; its ending may be left out where that is plain."""
    given = PurePosixPath(text.strip().replace("\\", "/"))
    if given.is_absolute() or ".." in given.parts:
        raise UserError(f"{where}: {text} leads out of --videos={videos}: give a path inside it")
    name = given.as_posix()
    if name in found:
        return name
    same_stem = by_stem.get(name, [])
    if len(same_stem) > 1:
        raise UserError(
            f"{where}: {text} may be {' or '.join(sorted(same_stem)[:3])}: add the ending"
        )
    if not same_stem:
        raise UserError(
            f"{where}: there is no clip {text} in --videos={videos}: add it, or take the row out"
        )
    return same_stem[0]


def _checked(caption: str, where: str) -> str:
    if len(caption) > LONGEST_CAPTION:
        raise UserError(f"{where}: a caption of {len(caption)} letters: at most {LONGEST_CAPTION}")
    return caption


def _rows(path: Path) -> Iterator[CaptionRow]:
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"--captions={path}: give a .csv, .tsv or .jsonl file")
    if not path.is_file():
        raise UserError(f"--captions={path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (
                _json_rows(file, path) if ending == ".jsonl" else _table_rows(file, path, ending)
            )
    except UnicodeDecodeError as error:
        raise UserError(
            f"--captions={path}: not UTF-8 (byte {error.start} of a block): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"--captions={path} cannot be read: {error.strerror}") from error


def _json_rows(file: Any, path: Path) -> Iterator[CaptionRow]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"--captions={path}, row at line {line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(
                f"--captions={path}, row at line {line}: give an object with video and caption"
            )
        yield line, {name.lower(): value for name, value in row.items()}


def _table_rows(file: Any, path: Path, ending: str) -> Iterator[CaptionRow]:
    reader = csv.reader(file, delimiter="\t" if ending == ".tsv" else ",", strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            begins, line = line, reader.line_num + 1
            if not any(cells):
                continue
            if names is None:
                names = [cell.strip().lower() for cell in cells]
                if not (set(names) >= {"video", "caption"} or set(names) >= WEBVID):
                    raise UserError(
                        f"--captions={path}: needs the columns video, caption (or WebVid's videoid, page_dir, name); "
                        f"its first line has {', '.join(names)}"
                    )
            elif len(cells) != len(names):
                raise UserError(
                    f"--captions={path}, row at line {begins}: {len(cells)} cells for {len(names)} columns: "
                    "put captions with commas in quotes"
                )
            else:
                yield begins, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"--captions={path}, row at line {line}: {error}") from error
    if names is None:
        raise UserError(f"--captions={path} is empty: give a first line with video,caption")
