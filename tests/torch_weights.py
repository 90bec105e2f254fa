"""PyTorch's side of the parity tests: random weights, their copies for JAX, and the distance of two outputs."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.weights.tables.clip_keys import TEXT_ALIASES, TEXT_TABLE
from magicvideo_jax.weights.tables.naming import Table, name_of, renamed


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter becomes random, norms and biases too: a layer that is missing or misplaced shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
            if parameter.ndim > 1:
                parameter /= parameter[0].numel() ** 0.5
            else:
                parameter *= 0.1
        for child in module.modules():
            if isinstance(child, torch.nn.GroupNorm | torch.nn.LayerNorm):
                child.weight += 1
    return module.eval().requires_grad_(False)


def relative_error(ours: Any, theirs: Any) -> float:
    """max |a - b| / max |b|."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def to_torch(x: Any) -> torch.Tensor:
    """`b t h w c` or `b h w c` -> PyTorch's `b c h w`, frames in the batch."""
    x = np.asarray(x)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x.reshape(-1, *x.shape[-3:]), -1, 1)))


def from_torch(x: torch.Tensor, like: tuple[int, ...]) -> np.ndarray:
    """`b c h w` -> `*like h w c`."""
    channels_last = np.moveaxis(x.detach().numpy(), 1, -1)
    return channels_last.reshape(*like, *channels_last.shape[1:])


def copied(table: Table, shapes: Params, state: Mapping[str, torch.Tensor]) -> Params:
    """Every tensor of `state` as the parameter that the key table makes of it; each is used once."""
    aliases = TEXT_ALIASES if table is TEXT_TABLE else ()
    state, flat = {renamed(key, aliases): value for key, value in state.items()}, {}
    for path, shape in flatten(shapes).items():
        name = name_of(table, path, len(shape.shape))
        flat[path] = jnp.array(name.layout.to_ours(state.pop(name.key).numpy()))
        assert flat[path].shape == shape.shape, f"{path}: {flat[path].shape} is not {shape.shape}"
    assert not state, f"not used: {sorted(state)}"
    return unflatten(flat)
