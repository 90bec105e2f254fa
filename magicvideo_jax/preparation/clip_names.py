"""Which clip a row of a caption table means."""

import os
from functools import cached_property
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.preparation.clip_folder import ClipFolder, canonical_name, stem


class ClipNames:
    """Clips of a folder by the ways in which tables name them.

    A path may be relative to the folder of clips, to the table, or to the current folder, or
    absolute; lead through links; have accents in either Unicode form; and lack its ending.
    """

    def __init__(self, folder: ClipFolder, table: Path):
        self._folder, self._clips = folder.path, folder.clips
        self._roots = (str(folder.path), os.path.realpath(folder.path))
        self._starts = (folder.path, table.parent, Path.cwd())
        self._by_stem: dict[str, list[str]] = {}
        for name in folder.clips:
            self._by_stem.setdefault(stem(name), []).append(name)

    def find(self, text: str, where: str) -> str:
        """Name of the clip. Errors: `UserError` where there is none, or several."""
        paths = self._paths(text)
        inside = [name for path in paths if (name := self._below(path)) is not None]
        for name in inside:
            if name in self._clips:
                return name
        for name in inside:
            same_stem = self._by_stem.get(name, [])
            if len(same_stem) > 1:
                raise UserError(
                    f"{where}: {text} may be {' or '.join(sorted(same_stem)[:3])}: add the ending"
                )
            if same_stem:
                return same_stem[0]
        for path in paths:
            if (real := os.path.realpath(path)) in self._by_real_path:
                return self._by_real_path[real]
        if not inside:
            raise UserError(
                f"{where}: {text} leads out of --videos={self._folder}: give a path inside it"
            )
        raise UserError(
            f"{where}: there is no clip {text} in --videos={self._folder}: "
            "add it, or take the row out"
        )

    def find_exact(self, text: str) -> str | None:
        """Name of the clip at a path below the folder, if there is one."""
        name = canonical_name(text)
        return name if name in self._clips else None

    def _paths(self, text: str) -> list[str]:
        given = text.strip().replace("\\", "/")
        return list(
            dict.fromkeys(os.path.normpath(os.path.join(start, given)) for start in self._starts)
        )

    def _below(self, path: str) -> str | None:
        """A path's canonical name, as far as its spelling tells that it is inside the folder."""
        for root in self._roots:
            if path.startswith(os.path.join(root, "")):
                return canonical_name(os.path.relpath(path, root).replace(os.sep, "/"))
        return None

    @cached_property
    def _by_real_path(self) -> dict[str, str]:
        return {os.path.realpath(path): name for name, path in self._clips.items()}
