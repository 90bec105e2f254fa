"""Parameter trees as tables: nested dicts of arrays <-> {"a.b.c": array}."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict by dotted path, in the tree's own order."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def count(tree: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size_in_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def split(
    tree: Mapping[str, Any], chosen: Callable[[str], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves whose path is chosen, and the others, as trees that `merge` puts together
    again.
    """
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if chosen(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not chosen(path)}),
    )


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one. Errors: `ValueError` where both have a leaf at the same path."""
    ours, theirs = flatten(one), flatten(other)
    if common := ours.keys() & theirs.keys():
        raise ValueError(f"both trees have {', '.join(sorted(common)[:3])}")
    return unflatten(ours | theirs)
