"""Flax modules as pure functions of plain nested dicts, the only form of a network outside
`models/`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from magicvideo_jax.core.types import Params


class Keys:
    """Random keys for layers, from a plain counter.

    `nnx.Rngs` updates a counter variable at each draw, which takes ten times as long under
    `eval_shape`.
    """

    def __init__(self, key: PRNGKeyArray):
        self._key, self._drawn = key, 0

    def __call__(self) -> PRNGKeyArray:
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)


class Network(NamedTuple):
    """Network as functions, without parameters."""

    apply: Callable[..., Any]
    """`apply(params, *inputs)` calls the module."""
    init: Callable[[PRNGKeyArray], Params]
    """`init(key)` gives fresh float32 parameters. Run it under `jax.jit(..., out_shardings=...)`.
    """
    shapes: Params
    """Shapes of the parameters, as `jax.ShapeDtypeStruct`."""
    method: Callable[[Callable[..., Any]], Callable[..., Any]]
    """`method(Module.name)` gives a function like `apply` for another method of the module."""


def bind(build: Callable[[Keys], nnx.Module]) -> Network:
    """Convert the module that `build(keys)` makes to functions and shapes.

    Only `init` allocates parameters.
    """
    graph, abstract = nnx.split(nnx.eval_shape(lambda: build(Keys(jax.random.key(0)))))

    def init(key: PRNGKeyArray) -> Params:
        return params_of(build(Keys(key)))

    def method(function: Callable[..., Any]) -> Callable[..., Any]:
        def apply(params: Params, *inputs: Any, **options: Any) -> Any:
            return function(nnx.merge(graph, _to_state(params)), *inputs, **options)

        return apply

    return Network(
        method(lambda module, *a, **k: module(*a, **k)), init, _to_params(abstract), method
    )


def params_of(module: nnx.Module) -> Params:
    """Parameters of a module as they are now, for methods that change some of them."""
    return _to_params(nnx.state(module))


def _to_params(state: Any) -> Params:
    """Convert a state to nested dicts with string keys: paths read like PyTorch's,
    `down_blocks.0.resnets.1.conv1`.
    """

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
