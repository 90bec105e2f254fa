"""From the tensors of a file to a `LoadParams`."""

from collections.abc import Callable
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.components import LoadParams
from magicvideo_jax.weights.match import match
from magicvideo_jax.weights.streaming import Fresh, Tick, place_tensors, silent
from magicvideo_jax.weights.tables import Table, renamed
from magicvideo_jax.weights.tensors import Tensors


def loader(
    table: Table,
    tensors: Tensors,
    *,
    where: str,
    extras: tuple[str, ...] = (),
    file_key: Callable[[str], str] = str,
) -> LoadParams:
    """Parameters by a key table; see `match` for the arguments."""

    def load(
        shapes: Params,
        *,
        shardings: Any = None,
        may_be_missing: tuple[str, ...] = (),
        fresh: Fresh | None = None,
        tick: Tick = silent,
    ) -> Params:
        matches = match(
            table,
            flatten(shapes),
            tensors,
            where=where,
            may_be_missing=may_be_missing,
            extras=extras,
            file_key=file_key,
        )
        return place_tensors(matches, shapes, shardings=shardings, fresh=fresh, tick=tick)

    return load


def with_current_keys(
    tensors: Tensors, aliases: tuple[tuple[str, str], ...], *, where: str
) -> Tensors:
    """Tensors by the keys of today. `UserError` if two keys of the file mean the same."""
    new = {key: renamed(key, aliases) for key in tensors}
    if len(set(new.values())) < len(new):
        names = list(new.values())
        twice = sorted(key for key, name in new.items() if names.count(name) > 1)
        raise UserError(f"{where}: keys that mean the same weight: {', '.join(twice[:8])}")
    return {new[key]: tensor for key, tensor in tensors.items()}
