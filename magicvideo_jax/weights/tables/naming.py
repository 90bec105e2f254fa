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
    """Axes of one of our parameters in the order of a PyTorch weight, None for one of size 1 that
    only PyTorch has; empty: the same order."""

    SAME = ()
    LINEAR = (1, 0)
    """(in, out) -> (out, in)."""
    CONV = (3, 2, 0, 1)
    """h w in out -> out in h w."""
    CONV_3D = (4, 3, 0, 1, 2)
    """t h w in out -> out in t h w."""
    FRAME_CONV = (3, 2, None, 0, 1)
    """h w in out -> out in 1 h w."""
    FRAME_DECONV = (2, 3, None, 0, 1)
    """h w in out -> in out 1 h w."""
    POINT_CONV = (1, 0, None, None)
    """(in, out) -> (out, in, 1, 1)."""
    CLIP_CHANNELS = (None, 0, None, None, None)
    """(c,) -> (1, c, 1, 1, 1)."""

    def shape_of(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the PyTorch weight of one of our parameters."""
        return tuple(1 if axis is None else ours[axis] for axis in self.value) or ours

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        if not self.value:
            return ours
        new = tuple(place for place, axis in enumerate(self.value) if axis is None)
        return np.expand_dims(ours.transpose(self._axes), new)

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        if not self.value:
            return theirs
        new = tuple(place for place, axis in enumerate(self.value) if axis is None)
        return theirs.squeeze(new).transpose(np.argsort(self._axes))

    @property
    def _axes(self) -> tuple[int, ...]:
        """Our axes in their order."""
        return tuple(axis for axis in self.value if axis is not None)


class NamingStyle(Enum):
    """Naming and layout of a layer's parameters."""

    PYTORCH = "pytorch"
    """`weight` and `bias`; kernels are transposed."""
    OURS = "ours"
    """Our own names and layout, for layers without a counterpart in PyTorch."""
    FRAMES = "frames"
    """PyTorch's of a 3-D convolution whose kernel has one frame, where ours is 2-D."""
    FRAMES_TRANSPOSED = "frames transposed"
    """PyTorch's of a transposed 3-D convolution whose kernel has one frame, where ours is 2-D."""
    POINTWISE = "pointwise"
    """PyTorch's of a linear map that is a convolution of 1 x 1."""
    GAMMA = "gamma"
    """A norm over the channels of clips that has a scale alone."""


class TableRow(NamedTuple):
    """Layers whose path matches `ours` entirely are called `theirs`."""

    ours: str
    theirs: str
    leaves: NamingStyle = NamingStyle.PYTORCH


Table = tuple[TableRow, ...]

Aliases = tuple[tuple[str, str], ...]
"""Keys of older files and what they are called today, as patterns; the first that matches
entirely is applied."""

_PYTORCH = {
    ("kernel", 5): ("weight", Layout.CONV_3D),
    ("kernel", 4): ("weight", Layout.CONV),
    ("kernel", 2): ("weight", Layout.LINEAR),
    ("embedding", 2): ("weight", Layout.SAME),
    ("scale", 1): ("weight", Layout.SAME),
    ("bias", 1): ("bias", Layout.SAME),
    ("mean", 1): ("running_mean", Layout.SAME),
    ("variance", 1): ("running_var", Layout.SAME),
}
_LEAVES = {
    NamingStyle.PYTORCH: _PYTORCH,
    NamingStyle.FRAMES: _PYTORCH | {("kernel", 4): ("weight", Layout.FRAME_CONV)},
    NamingStyle.FRAMES_TRANSPOSED: _PYTORCH | {("kernel", 4): ("weight", Layout.FRAME_DECONV)},
    NamingStyle.POINTWISE: _PYTORCH | {("kernel", 2): ("weight", Layout.POINT_CONV)},
    NamingStyle.GAMMA: {("scale", 1): ("gamma", Layout.CLIP_CHANNELS)},
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
                (leaf, Layout.SAME)
                if row.leaves is NamingStyle.OURS
                else _LEAVES[row.leaves][leaf, rank]
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
