"""Matching parameters with the tensors of a file: one tensor fills each parameter, each tensor is
used once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from jax import ShapeDtypeStruct

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tables.naming import Layout, Table, name_of
from magicvideo_jax.weights.tensors import FLOATS, Stored, Tensors

_LISTED = 8


class Match(NamedTuple):
    """A parameter and the tensor that fills it."""

    path: str
    key: str
    """Key of the tensor in its file."""
    layout: Layout
    tensor: Stored


def match(
    table: Table,
    shapes: Mapping[str, ShapeDtypeStruct],
    tensors: Tensors,
    *,
    where: str,
    may_be_missing: Collection[str] = (),
    file_key: Callable[[str], str] = str,
) -> list[Match]:
    """Find the tensor of every parameter.

    `shapes` are by dotted path. `may_be_missing` names what a source need not have, by parts of
    paths (trailing digits ignored); `file_key` turns diffusers' keys into those of the file.
    Errors: one `UserError` that names all that is missing, unknown or of the wrong shape.
    """
    matches: list[Match] = []
    missing: list[str] = []
    wrong: list[str] = []
    used: set[str] = set()
    for path, ours in shapes.items():
        name = name_of(table, path, len(ours.shape))
        key, expected = file_key(name.key), name.layout.shape_of(ours.shape)
        if key not in tensors:
            if not may_miss(path, may_be_missing):
                missing.append(f"{key} {expected}")
            continue
        used.add(key)
        tensor = tensors[key]
        if tensor.shape != expected:
            wrong.append(f"{key} {tensor.shape}, not {expected}")
        elif tensor.dtype not in FLOATS:
            wrong.append(f"{key} of {tensor.dtype}, {_why_not(tensor.dtype)}")
        matches.append(Match(path, key, name.layout, tensor))
    extra = [f"{key} {tensor.shape}" for key, tensor in tensors.items() if key not in used]
    refuse(where, missing=missing, extra=extra, wrong=wrong)
    return matches


def _why_not(dtype: str) -> str:
    if dtype.lower().startswith(("f8", "float8")):
        return "8-bit floats, which are not supported: give float16, bfloat16 or float32 weights"
    return "not floating point"


def match_paths(
    shapes: Mapping[str, ShapeDtypeStruct],
    present: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    may_be_missing: Collection[str] = (),
) -> list[str]:
    """Find the paths that are present, for parameters under our own names. Errors: as for
    `match`."""
    refuse(
        where,
        missing=[
            f"{path} {ours.shape}"
            for path, ours in shapes.items()
            if path not in present and not may_miss(path, may_be_missing)
        ],
        extra=[f"{path} {shape}" for path, shape in present.items() if path not in shapes],
        wrong=[
            f"{path} {present[path]}, not {ours.shape}"
            for path, ours in shapes.items()
            if path in present and present[path] != ours.shape
        ],
    )
    return [path for path in shapes if path in present]


def may_miss(path: str, names: Collection[str]) -> bool:
    """Whether a part of the path is one of the names, trailing digits ignored: `adaptor2` is an
    `adaptor`."""
    return any(part.rstrip("0123456789") in names for part in path.split("."))


def refuse(
    where: str,
    *,
    missing: Sequence[str],
    extra: Sequence[str],
    wrong: Sequence[str],
    advice: str = "",
) -> None:
    """Raise one `UserError` that lists everything that does not fit, if anything does not."""
    problems = [
        f"{len(items)} {kind}: {', '.join(items[:_LISTED])}{', ...' if len(items) > _LISTED else ''}"
        for kind, items in (
            ("missing", missing),
            ("unknown", extra),
            ("of the wrong shape or kind", wrong),
        )
        if items
    ]
    if problems:
        raise UserError(f"{where} does not fit the network: {'; '.join(problems)}{advice}")
