"""Caption tables as they circulate, read row by row.

    .csv, .tsv         a first line with the names of the columns
    .jsonl             one object a line
    .json              a list of objects
    .txt               one caption a line, for the clips that videos.txt beside it names line by line
    a folder           that holds metadata.jsonl, metadata.csv, or prompts.txt with videos.txt

Columns are recognised by name (`TABLE_FORMS`), or named by the caller.
"""

import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.preparation.clip_folder import is_utf8

LONGEST_CAPTION = 10_000
"""Characters of a caption."""


@dataclass(frozen=True)
class TableForm:
    """The columns by which a kind of table is recognised."""

    title: str
    video: str
    caption: str


TABLE_FORMS = (
    TableForm("a table of video and caption", "video", "caption"),
    TableForm("Open-Sora's table", "path", "text"),
    TableForm("Hugging Face metadata", "file_name", "text"),
)
WEBVID = TableForm("WebVid's table", "videoid", "name")
_WEBVID_COLUMNS = {"videoid", "page_dir", "name"}
_PAIRED_VIDEOS = "videos.txt"
_IN_A_FOLDER = ("metadata.jsonl", "metadata.csv", "prompts.txt", "prompt.txt")


@dataclass(frozen=True)
class CaptionRow:
    """Captions of one clip."""

    where: str
    """The row's place for an error message."""
    clips: tuple[str, ...]
    """Paths that may name the clip, the likeliest first."""
    captions: tuple[str, ...]
    may_lack_clip: bool = False
    """Whether the table is known to name clips that were never downloaded."""


@dataclass(frozen=True)
class CaptionTable:
    """A table whose form is known, and its rows, which are read once."""

    path: Path
    form: str
    rows: Iterator[CaptionRow]


Record = tuple[str, Mapping[str, Any]]
"""The place of a row for messages, and its fields by lower-case name."""


def read_captions(path: Path, *, video_column: str = "", caption_column: str = "") -> CaptionTable:
    """Open a caption table and recognise its form.

    Errors, here or while rows are read: `UserError` names the table and the row.
    """
    path = _table_in(path) if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--captions={path}: {'not a file' if path.exists() else 'no such file'}")
    named = video_column or caption_column
    match path.suffix.lower():
        case ".csv" | ".tsv":
            header = next(_read(path, _header))
            form = _form(path, header, video_column, caption_column)
            if form is None:
                raise UserError(
                    f"--captions={path}: needs the columns video, caption (or path, text; "
                    "file_name, text; WebVid's videoid, page_dir, name); its first line has "
                    f"{', '.join(header)}: name its columns by --video_column and --caption_column"
                )
            records = _read(path, _csv_records)
        case ".jsonl" | ".json" as ending:
            records = _read(path, _json_lines if ending == ".jsonl" else _json_list)
            first = next(records, None)
            columns = [] if first is None else list(first[1])
            form = _form(path, columns, video_column, caption_column) or TABLE_FORMS[0]
            records = itertools.chain([] if first is None else [first], records)
        case ".txt" if not named:
            title = f"captions a line beside {_PAIRED_VIDEOS}"
            form = TableForm(title, *_PAIR_COLUMNS)
            records = _paired_lines(path)
        case ".txt":
            raise UserError("--video_column, --caption_column: a .txt file has no columns")
        case _:
            raise UserError(f"--captions={path}: give a .csv, .tsv, .json, .jsonl or .txt file")
    make = _webvid_row if form is WEBVID else _row_maker(form, exact=bool(caption_column))
    return CaptionTable(path, form.title, (make(where, row) for where, row in records))


def checked_caption(caption: str, where: str) -> str:
    """A caption that a data set can store. Errors: `UserError` for its length or its encoding."""
    if len(caption) > LONGEST_CAPTION:
        raise UserError(f"{where}: a caption of {len(caption)} letters: at most {LONGEST_CAPTION}")
    if not is_utf8(caption):
        raise UserError(f"{where}: the caption holds half a surrogate pair, which is no character")
    return caption


def _table_in(folder: Path) -> Path:
    for name in _IN_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"--captions={folder}: none of {', '.join(_IN_A_FOLDER)} there: give a file")


def _form(
    path: Path, columns: Collection[str], video_column: str, caption_column: str
) -> TableForm | None:
    """The form of a table with these columns, if it is known; named columns come first."""
    for argument, column in (("video", video_column), ("caption", caption_column)):
        if column and column.lower() not in columns:
            raise UserError(
                f"--{argument}_column={column}: --captions={path} has {', '.join(columns)}"
            )
    if video_column or caption_column:
        video = video_column or next((f.video for f in TABLE_FORMS if f.video in columns), "")
        caption = caption_column or next(
            (f.caption for f in TABLE_FORMS if f.caption in columns), ""
        )
        for argument, column in (("video", video), ("caption", caption)):
            if not column:
                raise UserError(
                    f"--{argument}_column: --captions={path} has {', '.join(columns)}: give one"
                )
        title = f"a table of {video} and {caption}"
        return TableForm(title, video.lower(), caption.lower())
    for form in TABLE_FORMS:
        if form.video in columns and (form.caption in columns or "captions" in columns):
            return form
    return WEBVID if set(columns) >= _WEBVID_COLUMNS else None


def _row_maker(form: TableForm, *, exact: bool) -> Callable[[str, Mapping[str, Any]], CaptionRow]:
    def row_of(where: str, row: Mapping[str, Any]) -> CaptionRow:
        video = _text(row, form.video, where)
        if "captions" in row and not exact:
            texts = row["captions"]
        else:
            value = row.get(form.caption)
            texts = value if isinstance(value, list) else [_text(row, form.caption, where)]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{where}: captions is no list of texts")
        return CaptionRow(where, (video,), _captions(texts, where))

    return row_of


def _webvid_row(where: str, row: Mapping[str, Any]) -> CaptionRow:
    folder, video = _text(row, "page_dir", where), _text(row, "videoid", where)
    captions = _captions([_text(row, "name", where)], where)
    return CaptionRow(where, (f"{folder}/{video}.mp4", f"{video}.mp4"), captions, True)


def _captions(texts: Iterable[str], where: str) -> tuple[str, ...]:
    return tuple(checked_caption(text.strip(), where) for text in texts if text.strip())


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        fields = ", ".join(str(field) for field in row) or "nothing"
        raise UserError(f"{where}: no {name} (it has {fields})")
    if not is_utf8(value):
        checked_caption(value, where)
    return value


def _read(path: Path, records: Callable[[Any, Path], Iterator[Any]]) -> Iterator[Any]:
    """Run a reader on an open file; what keeps the file from being read is one line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from records(file, path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"--captions={path}: not UTF-8 (byte {error.start} of a block): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"--captions={path} cannot be read: {error.strerror}") from error


def _json_lines(file: Any, path: Path) -> Iterator[Record]:
    for line, text in enumerate(file, 1):
        if text.strip():
            where = f"--captions={path}, row at line {line}"
            yield _json_record(_parsed(text, where), where)


def _json_list(file: Any, path: Path) -> Iterator[Record]:
    rows = _parsed(file.read(), f"--captions={path}")
    if not isinstance(rows, list):
        raise UserError(f"--captions={path}: give a list of objects with video and caption")
    for number, row in enumerate(rows, 1):
        where = f"--captions={path}, object {number}"
        yield _json_record(row, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error


def _json_record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"{where}: give an object with video and caption")
    return where, {name.lower(): value for name, value in row.items()}


def _header(file: Any, path: Path) -> Iterator[list[str]]:
    for where, cells in _csv_lines(file, path):
        names = [cell.strip().lower() for cell in cells]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{where}: two columns are called {twice}: rename one")
        yield names
        return
    raise UserError(f"--captions={path} is empty: give a first line with video,caption")


def _csv_records(file: Any, path: Path) -> Iterator[Record]:
    lines = _csv_lines(file, path)
    names = [cell.strip().lower() for cell in next(lines)[1]]
    for where, cells in lines:
        if len(cells) != len(names):
            raise UserError(
                f"{where}: {len(cells)} cells for {len(names)} columns: "
                "put captions with commas in quotes"
            )
        yield where, dict(zip(names, cells, strict=True))


def _csv_lines(file: Any, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows that are not blank, each with the place where it begins."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            where, line = f"--captions={path}, row at line {line}", reader.line_num + 1
            if any(cells):
                yield where, cells
    except csv.Error as error:
        raise UserError(f"--captions={path}, row at line {line}: {error}") from error


_PAIR_COLUMNS = ("video", "caption")


def _paired_lines(path: Path) -> Iterator[Record]:
    """Line k of a .txt file is the caption of the clip in line k of videos.txt."""
    beside = path.with_name(_PAIRED_VIDEOS)
    if beside == path or not beside.is_file():
        raise UserError(
            f"--captions={path}: needs {_PAIRED_VIDEOS} beside it, which names the clip of each line"
        )
    captions, videos = (list(_read(file, _text_lines)) for file in (path, beside))
    if len(captions) != len(videos):
        raise UserError(
            f"--captions={path}: {len(captions)} captions for {len(videos)} clips in {beside}"
        )
    for number, pair in enumerate(zip(videos, captions, strict=True), 1):
        yield f"--captions={path}, line {number}", dict(zip(_PAIR_COLUMNS, pair, strict=True))


def _text_lines(file: Any, path: Path) -> Iterator[str]:
    """Lines without blank ones at the end."""
    # Not `splitlines`, which also breaks at characters that captions hold, such as U+2028.
    yield from file.read().replace("\r\n", "\n").rstrip().split("\n")
