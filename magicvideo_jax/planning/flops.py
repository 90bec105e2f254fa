"""FLOPs of a traced program: the matrix products and convolutions of its jaxpr.

XLA's own count is of the compiled program: it includes recomputed products and sums, and counts a
loop's body once.
"""

import math
from collections.abc import Iterator
from typing import Any


def count_flops(jaxpr: Any) -> int:
    """Multiplications and additions of all matrix products and convolutions of a jaxpr.

    Products without a contraction (outer products, broadcasts) are not counted, and a `while` that
    is not a scan counts once. Of implementations by platform (`attend`) the default counts, which
    neither recomputes nor hides products in a library's call; of other branches the cheapest.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product_flops(equation)
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        elif name == "scan":
            total += params["length"] * count_flops(params["jaxpr"])
        elif name == "shard_map":  # its body is the work of one device
            total += params["mesh"].size * count_flops(params["jaxpr"])
        elif name == "cond":
            total += _branch_flops(params)
        else:
            total += sum(map(count_flops, _called_jaxprs(params)))
    return total


def _product_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    if not contracted:
        return 0
    return (
        2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    )


def _convolution_flops(equation: Any) -> int:
    """FLOPs of a convolution.

    The zeros of a dilated input (a strided convolution's gradient) do not count.
    """
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    _, inputs, *window = numbers.rhs_spec
    each = kernel[inputs] * math.prod(kernel[axis] for axis in window)
    return (
        2
        * math.prod(equation.outvars[0].aval.shape)
        * each
        // math.prod(equation.params["lhs_dilation"])
    )


def _branch_flops(params: dict[str, Any]) -> int:
    flops = [count_flops(branch) for branch in params["branches"]]
    platforms = params.get("branches_platforms") or ()
    return flops[platforms.index(None)] if None in platforms else min(flops)


def _called_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Jaxprs among the parameters of an equation."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
