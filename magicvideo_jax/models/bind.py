"""A Flax module as pure functions of a plain nested dict: what every other room sees of a network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from magicvideo_jax.core.types import Params


class Keys:
    """A fresh key for every layer, from a plain counter.

    `nnx.Rngs` rewrites a counter variable at each draw, which under `eval_shape` takes ten times as long.
    """

    def __init__(self, key: PRNGKeyArray):
        self._key, self._drawn = key, 0

    def __call__(self) -> PRNGKeyArray:
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)


class Network(NamedTuple):
    """A network without its parameters."""

    apply: Callable[..., Any]
    """`apply(params, *inputs)`: the module's `__call__`."""
    init: Callable[[PRNGKeyArray], Params]
    """`init(key)`: fresh float32 parameters; run it under `jax.jit(..., out_shardings=...)`."""
    shapes: Params
    """The parameters as `jax.ShapeDtypeStruct`."""
    method: Callable[[Callable[..., Any]], Callable[..., Any]]
    """`method(Module.name)`: another method of the module, like `apply`."""


def bind(build: Callable[[Keys], nnx.Module]) -> Network:
    """Split `build(keys)` into functions and shapes; nothing is allocated before `init` is called."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: build(Keys(jax.random.key(0)))))

    def init(key: PRNGKeyArray) -> Params:
        return _to_params(nnx.state(build(Keys(key))))

    def method(function: Callable[..., Any]) -> Callable[..., Any]:
        def apply(params: Params, *inputs: Any, **options: Any) -> Any:
            return function(nnx.merge(graph, _to_state(params)), *inputs, **options)

        return apply

    return Network(
        method(lambda module, *a, **k: module(*a, **k)), init, _to_params(abstract), method
    )


def _to_params(state: Any) -> Params:
    """List positions become strings, so that a path reads like PyTorch's: `down_blocks.0.resnets.1.conv1`."""

    def plain(node: Any) -> Any:
        return (
            {str(name): plain(child) for name, child in node.items()}
            if isinstance(node, dict)
            else node
        )

    return plain(nnx.to_pure_dict(state))


def _to_state(params: Params) -> Mapping[Any, Any]:
    def typed(node: Any) -> Any:
        if not isinstance(node, dict):
            return nnx.Param(node)
        return {int(name) if name.isdigit() else name: typed(child) for name, child in node.items()}

    return nnx.State(typed(params))
