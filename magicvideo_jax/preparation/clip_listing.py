"""Which clips enter a data set, with which captions, and what is passed over.

Captions come from a table (`caption_tables`) or from a text file beside each clip. Several rows or
lines of a clip are several captions; a clip without any is unlabelled.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.preparation.caption_tables import CaptionTable, checked_caption, read_captions
from magicvideo_jax.preparation.clip_folder import ClipFolder, LeftOut, scan_folder, stem
from magicvideo_jax.preparation.clip_names import ClipNames

FROM_TEXT_FILES = "text files beside the clips"


@dataclass(frozen=True)
class Entry:
    """A clip of a data set."""

    name: str
    """Its path below the folder of clips, with forward slashes and composed accents: unique, and
    the same on every machine."""
    path: Path
    captions: tuple[str, ...]
    """Empty for an unlabelled clip."""


@dataclass(frozen=True)
class Listing:
    """All clips by name, and a count of everything that was passed over."""

    entries: tuple[Entry, ...]
    captions_from: str = FROM_TEXT_FILES
    """The form of the caption table."""
    linked: int = 0
    """Clips that were reached through a linked folder."""
    left_out: tuple[LeftOut, ...] = ()


def list_clips(
    videos: Path,
    captions: Path | None,
    *,
    video_column: str = "",
    caption_column: str = "",
    outputs: tuple[Path, ...] = (),
) -> Listing:
    """The clips below `videos`, with captions of a table or of a text file beside each.

    `outputs` are files and folders that `prepare` itself writes; inside `videos` they are passed
    over. Errors: `UserError` names the folder, or the table and its row: nothing there, unreadable,
    a missing column, a row without its clip, a clip under two names.
    """
    table = None
    if captions is not None:
        table = read_captions(captions, video_column=video_column, caption_column=caption_column)
    elif video_column or caption_column:
        raise UserError("--video_column, --caption_column: name a table by --captions, too")
    own = outputs if table is None else (*outputs, table.path)
    folder = scan_folder(videos, ignored=own)
    if not folder.clips:
        passed_over = "; ".join(str(some) for some in folder.left_out)
        raise UserError(
            f"--videos={videos}: no clips there ({', '.join(ENDINGS)})"
            + (f"; left out: {passed_over}" if passed_over else "")
        )
    found = _captions_beside(folder) if table is None else _captions_of(table, folder)
    entries = tuple(Entry(name, folder.clips[name], tuple(found[name])) for name in sorted(found))
    if not entries:
        raise UserError(f"--captions={captions}: names no clip of --videos={videos}")
    form = FROM_TEXT_FILES if table is None else f"{table.path}, read as {table.form}"
    return Listing(entries, form, folder.linked, folder.left_out)


def _captions_beside(folder: ClipFolder) -> dict[str, list[str]]:
    """Lines of a.txt or a.mp4.txt for a.mp4; the endings may be in capitals."""
    texts: dict[str, list[str]] = {}
    for text in folder.texts:
        texts.setdefault(_without_case(stem(text)), []).append(text)
    captions, read = {}, set()
    for clip in folder.clips:
        beside = [*texts.get(stem(clip), []), *texts.get(_without_case(clip), [])]
        if len(beside) > 1:
            raise UserError(f"--videos: {' and '.join(beside)} both describe {clip}: remove one")
        read.update(beside)
        captions[clip] = _lines(folder.texts[beside[0]]) if beside else []
    folder.leave_out("text files that belong to no clip", folder.texts.keys() - read)
    return captions


def _captions_of(table: CaptionTable, folder: ClipFolder) -> dict[str, list[str]]:
    """Captions by clip, each once, in the order of the table."""
    names = ClipNames(folder, table.path)
    captions: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for row in table.rows:
        if row.may_lack_clip:
            name = next(filter(None, map(names.find_exact, row.clips)), None)
        else:
            name = names.find(row.clips[0], row.where)
            first = spelled.setdefault(name, row.clips[0].strip())
            if first != row.clips[0].strip():
                raise UserError(
                    f"{row.where}: {row.clips[0]} is the clip that an earlier row calls {first}: "
                    "name it alike"
                )
        if name is None:
            folder.leave_out("captions without their clip", [row.clips[0]])
            continue
        kept = captions.setdefault(name, [])
        kept += [text for text in dict.fromkeys(row.captions) if text not in kept]
    folder.leave_out("clips that no caption names", folder.clips.keys() - captions.keys())
    folder.leave_out("text files (captions come from the table)", folder.texts)
    return captions


def _without_case(name: str) -> str:
    """A name whose ending, if it is a clip's, is in small letters."""
    ending = PurePosixPath(name).suffix
    small = ending.lower()
    return name.removesuffix(ending) + small if small in ENDINGS else name


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text (UTF-8): {error}") from error
    return [
        checked_caption(line.strip(), f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
