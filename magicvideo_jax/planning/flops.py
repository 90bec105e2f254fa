"""The arithmetic of a traced program: its products of matrices and convolutions, as mathematics has them.

XLA counts what it made of them (products it computes twice, sums, and a loop's body once); this counts the jaxpr.
"""

import math
from collections.abc import Iterator
from typing import Any


def count_flops(jaxpr: Any) -> int:
    """Multiplications and additions of all products and convolutions; of a `while` that is no scan, one round.

    A multiplication without a sum (an outer product, a broadcast) is not counted. Of branches, which are
    forms of one thing here (`attend`), the one that computes least twice counts.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _of_product(equation)
        elif name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif name == "scan":
            total += params["length"] * count_flops(params["jaxpr"])
        elif (
            name == "shard_map"
        ):  # over all axes of its mesh, here: what is written is one device's part
            total += params["mesh"].size * count_flops(params["jaxpr"])
        elif name == "cond":
            total += min(map(count_flops, params["branches"]))
        else:
            total += sum(map(count_flops, _inside(params)))
    return total


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    if not contracted:
        return 0
    return (
        2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    )


def _of_convolution(equation: Any) -> int:
    """A dilated input (the gradient of a stride) is zeros between its numbers, which cost nothing."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    _, inputs, *window = numbers.rhs_spec
    each = kernel[inputs] * math.prod(kernel[axis] for axis in window)
    return (
        2
        * math.prod(equation.outvars[0].aval.shape)
        * each
        // math.prod(equation.params["lhs_dilation"])
    )


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Programs that an equation calls."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
