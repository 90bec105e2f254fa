"""Placing parameters on devices one at a time: beside the parameters, one tensor is in host
memory."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params

Fresh = Callable[[], Params]
"""Draws all parameters of a network anew."""
Tick = Callable[[int], None]
"""Called after each parameter with its size in bytes."""


def silent(_: int) -> None:
    """A `Tick` that does nothing."""


def sharding_by_path(
    flat: Mapping[str, Any], shardings: Any
) -> dict[str, jax.sharding.Sharding | None]:
    """Expand a tree of shardings, or one sharding for all, to a sharding for each path."""
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return dict.fromkeys(flat, shardings)
    by_path = flatten(shardings)
    return {path: by_path[path] for path in flat}


def put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """Copy an array to its devices, and wait for it, so that the next tensor does not come on
    top."""
    if sharding is None:
        return jax.block_until_ready(jax.device_put(array))
    return jax.block_until_ready(
        jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    )


def check_finite(array: np.ndarray | jax.Array, where: str) -> None:
    """Refuse NaN and infinity: one such weight makes every output black.

    Errors: `UserError` naming `where`, the file and tensor, and how many numbers are not finite.
    """
    parts = [array]
    if isinstance(array, jax.Array):
        parts = [shard.data for shard in array.addressable_shards if shard.replica_id == 0]
    bad = sum(int(np.count_nonzero(~np.isfinite(np.asarray(part)))) for part in parts)
    if bad:
        raise UserError(
            f"{where}: {bad} of {array.size} numbers are not finite (NaN or infinity): "
            "the weights are damaged or their training diverged; get them anew"
        )


def draw_missing(
    paths: Collection[str], fresh: Fresh | None, placed: Mapping[str, jax.sharding.Sharding | None]
) -> dict[str, jax.Array]:
    """Draw the named parameters of a fresh network; the others are traced away."""
    if not paths:
        return {}
    if fresh is None:
        raise ValueError(
            f"what may be missing is missing ({min(paths)}): give `fresh`, which draws parameters"
        )

    def some() -> dict[str, jax.Array]:
        everything = flatten(fresh())
        return {path: everything[path] for path in paths}

    shardings = {path: placed[path] for path in paths}
    return jax.jit(some, out_shardings=None if None in shardings.values() else shardings)()
