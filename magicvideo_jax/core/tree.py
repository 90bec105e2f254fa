"""Parameter trees: nested dicts of arrays <-> flat dicts by dotted path, {"a.b.c": array}."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert nested dicts to one dict by dotted path, in the tree's own order."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a dict by dotted path to nested dicts: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def count_parameters(tree: Any) -> int:
    """Number of parameters in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size_in_bytes(tree: Any) -> int:
    """Size in bytes of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def split_by_path(
    tree: Mapping[str, Any], is_selected: Callable[[str], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a tree into the leaves whose dotted path is selected and the rest.

    `merge` is the inverse.
    """
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if is_selected(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not is_selected(path)}),
    )


def select_like(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Select the leaves of a tree that stand at the paths of another tree's leaves."""
    return {
        name: select_like(tree[name], child) if isinstance(child, Mapping) else tree[name]
        for name, child in like.items()
    }


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees into one. Errors: `ValueError` where both have a leaf at the same path."""
    ours, theirs = flatten(one), flatten(other)
    if common := ours.keys() & theirs.keys():
        raise ValueError(f"both trees have {', '.join(sorted(common)[:3])}")
    return unflatten(ours | theirs)
