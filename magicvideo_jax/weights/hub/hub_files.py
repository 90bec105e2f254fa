"""The files of a repository that are read when its weights are opened.

A repository holds the same weights several times: as safetensors and pickles, in float32 and
float16, as a folder and as one file. The choice is that of the formats for a local folder, made
from the names of the files alone.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import PIPELINE_PARTS, VAE
from magicvideo_jax.weights.folders import CONFIG, FORMAT, INDEX, PARAMS, left_behind
from magicvideo_jax.weights.formats.taesd_files import HALVES, taesd_file
from magicvideo_jax.weights.lora.peft_metadata import ADAPTER_CONFIG
from magicvideo_jax.weights.tensor_files import (
    PICKLES,
    SAFETENSORS,
    best_weights,
    variants_among,
)

# A component's weight files are named by its library: diffusers' stem, or transformers'.
_STEMS = sorted({(kind.stem, kind.older) for kind in PIPELINE_PARTS})
_SHARD_INDEX = re.compile(
    r"(?P<stem>.+)\.(?P<ending>safetensors|bin)\.index(?P<variant>\.\w+)?\.json"
)
_SETTINGS = (".json", ".txt")
_WITHOUT_WEIGHTS = ("scheduler", "tokenizer")
_MOST_NAMED = 8


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository to fetch, as paths in it."""

    paths: tuple[str, ...]
    opened: str
    """The one of them that is the weights, or their folder; empty for the repository itself."""


def hub_files(
    listing: Collection[str],
    path: str = "",
    *,
    index: Mapping[str, Any] | None = None,
    variant: str = "",
    where: str,
) -> HubFiles:
    """Choose what is read of a repository's files, or of the file or folder `path` in it.

    `listing` holds the paths of all files, `index` is the content of the folder's
    `model_index.json` if it has one. Errors: `UserError` beginning with `where` if nothing can be
    opened, several files could be, or no weights have the `variant`.
    """
    if path in listing:
        beside = _inside(listing, _parent(path))
        files = [*_with_shards(PurePosixPath(path).name, beside), *_scales_in(beside)]
        return HubFiles(_joined(_parent(path), files), path)
    names = _inside(listing, path)
    if not names:
        raise UserError(f"{where}: no {path or 'file'} in it; there are {_listed(listing)}")
    if variant:
        _check_variant(names, variant, where)
    chosen = _folder_files(names, index, variant, where)
    if chosen is not None:
        return HubFiles(_joined(path, chosen), path)
    chosen = _weights_in(names, variant) or _lone_file(names, where)
    opened = str(PurePosixPath(path, chosen[0]))
    return HubFiles(_joined(path, [*chosen, *_scales_in(names)]), opened)


def _folder_files(
    names: Collection[str], index: Mapping[str, Any] | None, variant: str, where: str
) -> Sequence[str] | None:
    """The files of a folder that is opened as one; None where weight files lie in it by
    themselves."""
    halves = [name for name in map(taesd_file, HALVES) if name in names]
    if halves:
        return halves
    if index is not None and FORMAT in index:  # `convert` writes nothing that is not read
        return sorted(names)
    if index is not None:
        skipped = left_behind(index)
        parts = [n for n, value in index.items() if n not in skipped and _is_part(n, value)]
        return [INDEX, *_part_files(names, parts, variant, where)]
    if CONFIG in names:
        return [CONFIG, *(_weights_in(names, variant) or _no_weights("it", names, where))]
    if f"{VAE.folder}/{CONFIG}" in names:
        return _part_files(names, [VAE.folder], variant, where)
    return None


def _part_files(
    names: Collection[str], parts: Sequence[str], variant: str, where: str
) -> list[str]:
    """Settings and weights of a pipeline's parts, each with the temporal layers of a video model."""
    files = []
    for folder in (name for part in parts for name in (part, f"{part}_temporal")):
        inside = _inside(names, folder)
        ours = [name for name in inside if name.startswith(f"{PARAMS}/")]
        weights = ours or _weights_in(inside, variant)
        if not weights and folder in parts and not folder.startswith(_WITHOUT_WEIGHTS):
            _no_weights(f"{folder}/", inside, where)
        settings = [name for name in inside if "/" not in name and _is_settings(name)]
        files += _joined(folder, (*sorted(settings), *weights))
    return list(dict.fromkeys(files))  # the index of shards is both


def _weights_in(names: Collection[str], variant: str) -> list[str]:
    """The one set of weight files of a network's folder: a file, or an index and its shards."""
    for stem, older in _STEMS:
        has_variant = variant in variants_among(names, stem, older)
        name = best_weights(names, stem, older, variant=variant if has_variant else "")
        if name is not None:
            return _with_shards(name, names)
    return []


def _with_shards(name: str, names: Collection[str]) -> list[str]:
    """A weight file; an index of shards with those that bear its stem."""
    index = _SHARD_INDEX.fullmatch(name)
    if index is None:
        return [name]
    stem, variant = re.escape(index["stem"]), re.escape(index["variant"] or "")
    numbered = rf"{variant}-\d+-of-\d+|-\d+-of-\d+{variant}"
    shard = re.compile(rf"{stem}(?:{numbered})\.{index['ending']}")
    return [name, *sorted(other for other in names if shard.fullmatch(other))]


def _lone_file(names: Collection[str], where: str) -> list[str]:
    """The only weight file of a folder; of two that differ in their ending, the safetensors."""
    endings = (SAFETENSORS, *PICKLES)
    files = [PurePosixPath(name) for name in names if "/" not in name and name.endswith(endings)]
    safe = {file.stem for file in files if file.suffix == SAFETENSORS}
    files = [str(file) for file in files if file.suffix == SAFETENSORS or file.stem not in safe]
    if len(files) == 1:
        return files
    if files:
        raise UserError(f"{where}: several weight files, add the name of one: {_listed(files)}")
    raise UserError(f"{where}: no weights in it; there are {_listed(names)}")


def _scales_in(names: Collection[str]) -> list[str]:
    """The file that changes what the factors beside it, of a LoRA, are worth."""
    return [name for name in names if name == ADAPTER_CONFIG]


def _check_variant(names: Collection[str], variant: str, where: str) -> None:
    folders = {str(PurePosixPath(name).parent) for name in names}
    there = {
        found
        for folder in folders
        for stem, older in _STEMS
        for found in variants_among(_inside(names, folder), stem, older)
    }
    if variant not in there:
        raise UserError(
            f"--variant={variant}: {where} has {_listed(there) or 'no variants'}; "
            "leave it out for the plain files"
        )


def _no_weights(part: str, names: Collection[str], where: str) -> NoReturn:
    """Raise the `UserError` of a network without weights; it lists the variants that are there."""
    variants = [name for stem, older in _STEMS for name in variants_among(names, stem, older)]
    only = f", only the variants {_listed(variants)}" if variants else ""
    raise UserError(f"{where}: no weights in {part}{only}")


def _is_part(name: str, value: Any) -> bool:
    """Whether an entry of `model_index.json` names a part."""
    return isinstance(value, list) and any(value) and not name.startswith("_")


def _is_settings(name: str) -> bool:
    return name.endswith(_SETTINGS) and not _SHARD_INDEX.fullmatch(name)


def _inside(names: Collection[str], folder: str) -> list[str]:
    """The files below a folder, as paths in it."""
    start = "" if folder in ("", ".") else f"{folder}/"
    return [name.removeprefix(start) for name in names if name.startswith(start)]


def _joined(folder: str, names: Collection[str]) -> tuple[str, ...]:
    return tuple(str(PurePosixPath(folder, name)) for name in names)


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent).removeprefix(".")


def _listed(names: Collection[str]) -> str:
    shown = sorted(set(names))
    return ", ".join(shown[:_MOST_NAMED]) + (", ..." if len(shown) > _MOST_NAMED else "")
