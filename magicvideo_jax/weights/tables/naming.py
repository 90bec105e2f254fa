"""Rows of the key tables: from a path in our parameters to the key of its weight in PyTorch's
files.

One direction serves both ways: the parameters of a network say which key to look for when reading
and which to write. A row rewrites the path of a layer; the layer's own parameters follow
`NamingStyle`.
"""

import re
from enum import Enum
from typing import NamedTuple

import numpy as np


class Layout(Enum):
    """Axes of one of our parameters in the order of a PyTorch weight; empty: the same order."""

    SAME = ()
    LINEAR = (1, 0)
    """(in, out) -> (out, in)."""
    CONV = (3, 2, 0, 1)
    """h w in out -> out in h w."""
    CONV_3D = (4, 3, 0, 1, 2)
    """t h w in out -> out in t h w."""

    def shape_of(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the PyTorch weight of one of our parameters."""
        return tuple(ours[axis] for axis in self.value) or ours

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.transpose(self.value) if self.value else ours

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        return theirs.transpose(np.argsort(self.value)) if self.value else theirs


class NamingStyle(Enum):
    """Naming and layout of a layer's parameters."""

    PYTORCH = "pytorch"
    """`weight` and `bias`; kernels are transposed."""
    OURS = "ours"
    """Our own names and layout, for layers without a counterpart in PyTorch."""


class TableRow(NamedTuple):
    """Layers whose path matches `ours` entirely are called `theirs`."""

    ours: str
    theirs: str
    leaves: NamingStyle = NamingStyle.PYTORCH


Table = tuple[TableRow, ...]

Aliases = tuple[tuple[str, str], ...]
"""Keys of older files and what they are called today, as patterns; the first that matches
entirely is applied."""

_LEAVES = {
    ("kernel", 5): ("weight", Layout.CONV_3D),
    ("kernel", 4): ("weight", Layout.CONV),
    ("kernel", 2): ("weight", Layout.LINEAR),
    ("embedding", 2): ("weight", Layout.SAME),
    ("scale", 1): ("weight", Layout.SAME),
    ("bias", 1): ("bias", Layout.SAME),
    ("mean", 1): ("running_mean", Layout.SAME),
    ("variance", 1): ("running_var", Layout.SAME),
}


class Name(NamedTuple):
    """The key of a parameter in a PyTorch file, and how it is laid out there."""

    key: str
    layout: Layout
    leaves: NamingStyle


def name_of(table: Table, path: str, rank: int) -> Name:
    """Look up a parameter of `rank` axes.

    Errors: `LookupError` for a path that no row knows, which is a gap in the table and not the
    user's mistake.
    """
    layer, _, leaf = path.rpartition(".")
    for row in table:
        found = re.fullmatch(row.ours, layer)
        if found:
            key, layout = (
                (leaf, Layout.SAME) if row.leaves is NamingStyle.OURS else _LEAVES[leaf, rank]
            )
            return Name(f"{found.expand(row.theirs)}.{key}", layout, row.leaves)
    raise LookupError(f"no row of the key table names {path}")


def layer_name(table: Table, path: str, rank: int) -> str:
    """Name of the layer that a parameter of `rank` axes belongs to. Errors: as for `name_of`."""
    return name_of(table, path, rank).key.rpartition(".")[0]


def renamed(key: str, aliases: Aliases) -> str:
    """Today's name for a key of an older file."""
    for pattern, today in aliases:
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(today)
    return key
