"""Weights fetched from the Hugging Face Hub, or found in its download cache.

`huggingface_hub` reads its own environment: HF_ENDPOINT, HF_HOME and HF_HUB_CACHE, HF_TOKEN and
the token file, HF_HUB_OFFLINE. It resumes where a connection breaks, and shows a bar on a
terminal.
"""

import glob
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.weights.folders import INDEX
from magicvideo_jax.weights.hub.hub_cache import snapshot_folder
from magicvideo_jax.weights.hub.hub_errors import hub_errors_explained
from magicvideo_jax.weights.hub.hub_files import hub_files
from magicvideo_jax.weights.hub.hub_name import HubName
from magicvideo_jax.weights.tensor_files import read_json

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

_LARGE = 10**8
"""Size in bytes from which a file is announced and fetched by itself."""


def fetch(name: HubName, *, argument: str, variant: str = "") -> Path:
    """Path of a repository's weights in the download cache, fetched if they are not there.

    Only the files that are read are fetched. Without a network, the commit that was fetched last
    is used.

    Errors: `UserError` naming `argument` where the hub cannot be reached and the cache does not
    hold the weights, for what is not on the hub or not open to everyone, for a download that
    breaks off, and for a full disk.
    """
    with hub_errors_explained(name, argument=argument):
        return _fetched(name, f"{argument}={name.text}", variant)


def _fetched(name: HubName, where: str, variant: str) -> Path:
    from huggingface_hub import constants

    downloads = Path(constants.HF_HUB_CACHE)
    revision = resolve(name.repository, name.revision)
    folder = snapshot_folder(downloads, name.repository, revision.resolved)
    sizes = _listing(name.repository, revision)
    if sizes is None:
        sizes = _cached_listing(folder, name.path)
        where = f"{where}: offline, and in the cache {folder}"
    index = str(PurePosixPath(name.path, INDEX))
    parts = None
    if index in sizes:  # a small file, which names the others
        _download(name.repository, revision, {index: sizes[index]})
        parts = read_json(folder / index)
    files = hub_files(sizes, name.path, index=parts, variant=variant, where=where)
    absent = {path: sizes[path] for path in files.paths if not (folder / path).exists()}
    if absent:
        size = sum(absent.values())
        _check_space(downloads, size, where)
        count = f"{len(absent)} file{'s' if len(absent) > 1 else ''}, {_in_words(size)}"
        say(f"fetching {name.text}: {count}, from {constants.ENDPOINT} to {folder}")
        _download(name.repository, revision, absent)
    return folder / files.opened


@cache
def resolve(repository: str, revision: str | None) -> "ResolvedRevision":
    """The commit that a branch or tag means, the same as long as this process lives."""
    from huggingface_hub import HfApi, constants

    return HfApi().resolve_revision(
        repository, revision=revision, local_files_only=constants.is_offline_mode()
    )


def _listing(repository: str, revision: "ResolvedRevision") -> Mapping[str, int] | None:
    """Sizes in bytes of a commit's files, by path; None where neither the hub nor the cache tells
    them."""
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import (
        CachedRepoTreeNotFoundError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = get_cached_repo_tree(repository, revision=revision)
    except CachedRepoTreeNotFoundError:
        tree = HfApi().list_repo_tree(repository, recursive=True, revision=revision.resolved)
    try:
        return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise  # the hub was reached, and refuses
        return None


def _cached_listing(folder: Path, path: str) -> Mapping[str, int]:
    """Sizes in bytes of the files that the cache holds of a commit, by path.

    Other programs leave parts of a model in the cache. Without its `model_index.json`, a folder
    is not taken for a whole one because of what lies in its subfolders.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = folder / path
    is_pipeline = (asked / INDEX).is_file()
    files = [file for file in asked.rglob("*") if is_pipeline or file.parent == asked]
    sizes = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in (asked, *files)
        if file.is_file()
    }
    if not sizes:
        raise LocalEntryNotFoundError(f"{asked} is not in the cache")
    return sizes


def _download(repository: str, revision: "ResolvedRevision", sizes: Mapping[str, int]) -> None:
    """Fetch files into the cache: small ones together, large ones one after the other with a line
    for each, so that an interrupt ends it at once."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    large = {path: size for path, size in sizes.items() if size >= _LARGE}
    small = [glob.escape(path) for path in sizes if path not in large]
    if small:  # this keeps the commit's listing in the cache, too
        with disable_progress_bars():  # they are drawn also where there is no terminal
            snapshot_download(repository, revision=revision, allow_patterns=small)
    for number, (path, size) in enumerate(large.items(), start=1):
        say(f"  {number} of {len(large)}: {path}, {_in_words(size)}")
        hf_hub_download(repository, path, revision=revision)


def _check_space(folder: Path, needed: int, where: str) -> None:
    """Errors: `UserError` for a download that would fill the disk."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{where}: needs {_in_words(needed)}, and {folder} has {_in_words(free)} free: make "
            "space, or set HF_HOME to a folder of another disk"
        )


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
