"""Where the parameters of one network wait to be read: tensors of PyTorch's files, or parameters
in memory.

`jax_params.py` has the third source, our own checkpoints.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.match import match, match_paths
from magicvideo_jax.weights.streaming import check_finite, put
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import Aliases, Table, name_of, renamed
from magicvideo_jax.weights.tensors import Tensors

Shapes = Mapping[str, jax.ShapeDtypeStruct]
"""Parameters by dotted path."""


@runtime_checkable
class ParamSource(Protocol):
    """Parameters of one network, not yet read."""

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """The paths among `shapes` that the source has; reads no parameter.

        `may_be_missing` names what the source need not have, by parts of paths.
        Errors: one `UserError` that names everything missing, unknown or of the wrong shape.
        """
        ...

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Read some of the parameters that `match` found, one after the other, onto their devices.

        Errors: `UserError` naming a tensor that cannot be read or is not finite.
        """
        ...


@dataclass(frozen=True)
class TensorParams:
    """Tensors of a PyTorch file under the names of a key table."""

    table: Table
    tensors: Tensors
    where: str
    file_key: Callable[[str], str] = str
    """Turns diffusers' keys into those of the file."""

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """Paths of the parameters that have a tensor: see `ParamSource`."""
        found = match(
            self.table,
            shapes,
            self.tensors,
            where=self.where,
            may_be_missing=may_be_missing,
            file_key=self.file_key,
        )
        return [one.path for one in found]

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Read tensor by tensor: see `ParamSource`."""
        for path, ours in shapes.items():
            name = name_of(self.table, path, len(ours.shape))
            key = self.file_key(name.key)
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
                array = self.tensors[key].read().astype(ours.dtype, copy=False)
            check_finite(array, f"{self.where}: {key}")
            # XLA transposes while it copies, twice as fast as NumPy would.
            yield path, put(name.layout.to_ours(array), placed[path])


@dataclass(frozen=True)
class GivenParams:
    """Parameters that are in memory, or are computed when first asked for."""

    shapes: Params
    get: Callable[[], Params]
    where: str

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """Paths of the parameters that are there: see `ParamSource`."""
        present = {path: x.shape for path, x in flatten(self.shapes).items()}
        return match_paths(shapes, present, where=self.where, may_be_missing=may_be_missing)

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Copy them to their devices: see `ParamSource`."""
        have = flatten(self.get())
        for path in shapes:
            check_finite(have[path], f"{self.where}: {path}")
            yield path, _placed(have[path], placed[path])


@dataclass(frozen=True)
class JoinedParams:
    """Parameters of two sources: those whose paths `is_added` selects, and the rest."""

    source: ParamSource
    added: ParamSource
    is_added: Callable[[str], bool]

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """Paths that either has: see `ParamSource`."""
        added, rest = self._split(shapes)
        found = self.source.match(rest, may_be_missing), self.added.match(added, may_be_missing)
        return [path for some in found for path in some]

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Read from one, then from the other: see `ParamSource`."""
        added, rest = self._split(shapes)
        yield from self.source.read(rest, placed)
        yield from self.added.read(added, placed)

    def _split(self, shapes: Shapes) -> tuple[Shapes, Shapes]:
        added = {path: shape for path, shape in shapes.items() if self.is_added(path)}
        return added, {path: shape for path, shape in shapes.items() if path not in added}


@dataclass(frozen=True)
class PartOfParams:
    """Some of the parameters of a source, which is matched as a whole."""

    source: ParamSource
    whole: Shapes
    """All parameters of the source."""

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """Paths among `shapes`: see `ParamSource`."""
        there = set(self.source.match(self.whole, may_be_missing))
        return [path for path in shapes if path in there]

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Read from the source: see `ParamSource`."""
        yield from self.source.read(shapes, placed)


def _placed(value: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    return jax.numpy.asarray(value) if sharding is None else jax.device_put(value, sharding)


def with_current_keys(tensors: Tensors, aliases: Aliases, *, where: str) -> Tensors:
    """Rename the keys of older files to today's.

    Errors: `UserError` if two keys of the file mean the same weight.
    """
    new = {key: renamed(key, aliases) for key in tensors}
    if len(set(new.values())) < len(new):
        names = list(new.values())
        twice = sorted(key for key, name in new.items() if names.count(name) > 1)
        raise UserError(f"{where}: keys that mean the same weight: {', '.join(twice[:8])}")
    return {new[key]: tensor for key, tensor in tensors.items()}


def without_extras(
    tensors: Tensors, extras: tuple[KnownExtra, ...], *, where: str
) -> tuple[Tensors, tuple[str, ...]]:
    """Leave out what is known to be no weight of ours, with a note for each other network among
    it."""
    known = [(re.compile(extra.pattern), extra.what) for extra in extras]
    kept, left = {}, dict[str, int]()
    for key, tensor in tensors.items():
        what = next((what for row, what in known if row.fullmatch(key)), None)
        if what is None:
            kept[key] = tensor
        elif what:
            left[what] = left.get(what, 0) + 1
    notes = tuple(f"{where}: left out {what} ({count} tensors)" for what, count in left.items())
    return kept, notes
