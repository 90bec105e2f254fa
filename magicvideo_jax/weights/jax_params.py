"""Orbax checkpoints of a network's parameters: written once, restored onto any devices."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.match import match_paths
from magicvideo_jax.weights.streaming import check_finite

_GROUP = 128 * 2**20


def save_params(folder: Path, params: Params) -> None:
    """Write a checkpoint into `folder`, which must not exist yet."""
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(params))


@dataclass(frozen=True)
class CheckpointParams:
    """A checkpoint that `save_params` wrote; see `param_sources.ParamSource`."""

    folder: Path

    def match(
        self, shapes: Mapping[str, jax.ShapeDtypeStruct], may_be_missing: Collection[str]
    ) -> list[str]:
        """Paths of the parameters that the checkpoint lists."""
        with _checkpointer() as checkpointer:
            stored = _stored(checkpointer, self.folder)
        return match_paths(shapes, stored, where=str(self.folder), may_be_missing=may_be_missing)

    def read(
        self,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        placed: Mapping[str, jax.sharding.Sharding | None],
    ) -> Iterator[tuple[str, jax.Array]]:
        """Restore parameters straight onto their devices, a group at a time."""
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        with _checkpointer() as checkpointer:
            for paths in _in_groups(shapes):
                wanted = {
                    path: jax.ShapeDtypeStruct(
                        shapes[path].shape, shapes[path].dtype, sharding=placed[path] or default
                    )
                    for path in paths
                }
                for path, value in _restored(checkpointer, self.folder, wanted).items():
                    check_finite(value, f"{self.folder}: {path}")
                    yield path, value


def _in_groups(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[list[str]]:
    """Groups of paths of about `_GROUP` bytes: Orbax holds what it restores twice while it does."""
    group, size = list[str](), 0
    for path in shapes:
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
    """Shapes of the parameters in a checkpoint, by path."""
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
    # Compressing random-looking floats takes six times as long and saves nothing; a gigabyte in
    # flight bounds memory.
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False, save_concurrent_gb=1, restore_concurrent_gb=1
    )
    return ocp.Checkpointer(handler)


def _broken(folder: Path, error: Exception) -> UserError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{folder}: not a whole Orbax checkpoint ({first[:300]})")
