"""FLOPs of a traced program: the matrix products and convolutions of its jaxpr.

XLA's own count is of the compiled program: it includes recomputed products and sums, counts a
loop's body once, and nothing within a Pallas kernel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class _Rule:
    """What counts."""

    platform: str | None = None
    """Whose implementations count; None: the default ones."""
    counts: bool = True
    """Whether products here count."""
    in_kernel: bool = False


def count_flops(jaxpr: Any) -> int:
    """Multiplications and additions of all matrix products and convolutions of a jaxpr.

    Products without a contraction (outer products, broadcasts) are not counted, and a `while` that
    is not a scan counts once. Of implementations by platform (`attend`) the default counts, which
    neither recomputes nor hides products in a library's call; of other branches the cheapest, but
    within a Pallas kernel the dearest, which its rounds take.
    """
    return _count(jaxpr, _Rule())


def count_kernel_flops(jaxpr: Any, platform: str) -> int:
    """The same of Pallas kernels alone, those that a platform's implementations call."""
    return _count(jaxpr, _Rule(platform, counts=False))


def _count(jaxpr: Any, rule: _Rule) -> int:
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += rule.counts * _product_flops(equation)
        elif name == "conv_general_dilated":
            total += rule.counts * _convolution_flops(equation)
        elif name == "scan":
            total += params["length"] * _count(params["jaxpr"], rule)
        elif name == "shard_map":  # its body is the work of one device
            total += params["mesh"].size * _count(params["jaxpr"], rule)
        elif name == "pallas_call":  # and this is one round of a kernel
            kernel = replace(rule, counts=True, in_kernel=True)
            total += math.prod(params["grid_mapping"].grid) * _count(params["jaxpr"], kernel)
        elif name == "cond":
            total += _branch_flops(params, rule)
        else:
            total += sum(_count(called, rule) for called in _called_jaxprs(params))
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


def _branch_flops(params: dict[str, Any], rule: _Rule) -> int:
    flops = [_count(branch, rule) for branch in params["branches"]]
    if rule.in_kernel:
        return max(flops)
    for platforms, of_branch in zip(params.get("branches_platforms") or (), flops, strict=False):
        if platforms is None or rule.platform in platforms:
            return of_branch
    return min(flops)


def _called_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Jaxprs among the parameters of an equation."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
