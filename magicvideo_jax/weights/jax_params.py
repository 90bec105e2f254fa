"""Parameters of a network as an Orbax checkpoint: written once, restored onto any devices."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.match import match_paths
from magicvideo_jax.weights.streaming import Fresh, Tick, draw_missing, sharding_by_path, silent

_GROUP = 128 * 2**20


def save_params(folder: Path, params: Params) -> None:
    """Write a checkpoint; `folder` must not exist yet."""
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(params))


def restore_params(
    folder: Path,
    shapes: Params,
    *,
    shardings: Any = None,
    may_be_missing: tuple[str, ...] = (),
    fresh: Fresh | None = None,
    tick: Tick = silent,
) -> Params:
    """Read a checkpoint straight onto its devices: see `parts.Load`."""
    flat = flatten(shapes)
    placed = sharding_by_path(flat, shardings)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with _checkpointer() as checkpointer:
        present = match_paths(
            flat, _stored(checkpointer, folder), where=str(folder), may_be_missing=may_be_missing
        )
        values: dict[str, jax.Array] = {}
        for paths in _in_groups(present, flat):
            wanted = {
                path: jax.ShapeDtypeStruct(
                    flat[path].shape, flat[path].dtype, sharding=placed[path] or default
                )
                for path in paths
            }
            values |= _restored(checkpointer, folder, wanted)
            tick(sum(values[path].nbytes for path in paths))
    values |= draw_missing([path for path in flat if path not in values], fresh, placed)
    return unflatten({path: values[path] for path in flat})


def _in_groups(
    paths: Iterable[str], shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Iterator[list[str]]:
    """Some at a time: Orbax holds what it restores twice while it does."""
    group, size = list[str](), 0
    for path in paths:
        group.append(path)
        size += math.prod(shapes[path].shape) * shapes[path].dtype.itemsize
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _restored(
    checkpointer: ocp.Checkpointer, folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    tree = unflatten(wanted)
    restoring = ocp.args.PyTreeRestore(
        item=tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
    )
    try:
        return jax.block_until_ready(
            flatten(checkpointer.restore(folder.absolute(), args=restoring))
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise _broken(folder, error) from error


def _stored(checkpointer: ocp.Checkpointer, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a checkpoint, by path."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of parameters")
    try:
        metadata = checkpointer.metadata(folder.absolute()).item_metadata
        tree = None if metadata is None else metadata.tree
        shapes = {path: tuple(leaf.shape) for path, leaf in flatten(tree or {}).items()}
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, error) from error
    if not shapes:
        raise UserError(f"{folder}: not a whole Orbax checkpoint (it lists no parameters)")
    return shapes


def _checkpointer() -> ocp.Checkpointer:
    # Compressing random-looking floats takes six times as long and saves nothing; a gigabyte in flight bounds memory.
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False, save_concurrent_gb=1, restore_concurrent_gb=1
    )
    return ocp.Checkpointer(handler)


def _broken(folder: Path, error: Exception) -> UserError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{folder}: not a whole Orbax checkpoint ({first[:300]})")
