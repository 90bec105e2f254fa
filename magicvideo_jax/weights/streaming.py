"""Tensors stream from a file onto the devices: beside the parameters, one tensor is in memory at a time."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.match import Match

Fresh = Callable[[], Params]
"""Draws all parameters of a network anew."""
Tick = Callable[[int], None]
"""Hears of every parameter that was brought in or out, by its bytes."""


def silent(_: int) -> None:
    """A `Tick` that nobody hears."""


def place_tensors(
    matches: Sequence[Match],
    shapes: Params,
    *,
    shardings: Any = None,
    fresh: Fresh | None = None,
    tick: Tick = silent,
) -> Params:
    """Read every matched tensor into its place.

    `shardings` is one sharding or a tree of them like `shapes` (none: the default device). Parameters that nothing
    matches come from `fresh`, of which only they are computed.
    """
    flat = flatten(shapes)
    placed = sharding_by_path(flat, shardings)
    filled: dict[str, jax.Array] = {}
    for path, layout, tensor in matches:
        like = flat[path]
        # XLA turns the axes as it copies, twice as fast as NumPy would.
        filled[path] = _put(
            layout.to_ours(tensor.read().astype(like.dtype, copy=False)), placed[path]
        )
        tick(filled[path].nbytes)
    left = [path for path in flat if path not in filled]
    values = filled | draw_missing(left, fresh, placed)
    return unflatten({path: values[path] for path in flat})


def sharding_by_path(
    flat: Mapping[str, Any], shardings: Any
) -> dict[str, jax.sharding.Sharding | None]:
    """A tree of shardings, or one for all, by path."""
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return dict.fromkeys(flat, shardings)
    by_path = flatten(shardings)
    return {path: by_path[path] for path in flat}


def draw_missing(
    paths: Collection[str], fresh: Fresh | None, placed: Mapping[str, jax.sharding.Sharding | None]
) -> dict[str, jax.Array]:
    """The named parameters of a fresh network; the others are traced away."""
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


def _put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """Onto the devices, and there before the next tensor is read."""
    if sharding is None:
        return jax.block_until_ready(jax.device_put(array))
    return jax.block_until_ready(
        jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    )
