"""An estimate of a program's time from the bytes and FLOPs of its kernels (Williams et al. 2009,
roofline).

    t = sum over kernels of max(bytes / bandwidth, FLOPs / (0.8 peak)) + 5 us * kernels

Large products reach about 0.8 of a GPU's peak: 799 of 989 TFLOP/s on an H100 (docs/benchmarks.md).
Kernels run one after the other, and collectives count as copies within a chip's memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from magicvideo_jax.planning.chip import Rates
from magicvideo_jax.planning.kernels import OPERATIONS, Kernel

REACHED = 0.8
LAUNCH = 5e-6


@dataclass(frozen=True)
class OperationCosts:
    """Costs of the kernels of one class of operation, per chip and step."""

    operation: str
    kernels: int
    bytes: int
    flops: int
    seconds: float
    """Least time, without launches."""


def costs_by_operation(kernels: Iterable[Kernel], rates: Rates) -> tuple[OperationCosts, ...]:
    """Costs by class of operation, in descending order of time."""
    of_class: dict[str, list[Kernel]] = {name: [] for name, _ in OPERATIONS}
    for kernel in kernels:
        of_class[kernel.operation].append(kernel)
    costs = (
        OperationCosts(
            operation,
            kernels=sum(one.times for one in some),
            bytes=sum(one.times * one.bytes for one in some),
            flops=sum(one.times * one.flops for one in some),
            seconds=sum(one.times * _seconds(one, rates) for one in some),
        )
        for operation, some in of_class.items()
        if some
    )
    return tuple(sorted(costs, key=lambda one: -one.seconds))


def total_costs(operations: Iterable[OperationCosts]) -> OperationCosts:
    """Sum over all classes of operations."""
    some = tuple(operations)
    return OperationCosts(
        "in all",
        kernels=sum(one.kernels for one in some),
        bytes=sum(one.bytes for one in some),
        flops=sum(one.flops for one in some),
        seconds=sum(one.seconds for one in some),
    )


def estimated_seconds(operations: Iterable[OperationCosts]) -> float:
    """Time of a program with the launches of its kernels."""
    total = total_costs(operations)
    return total.seconds + LAUNCH * total.kernels


def _seconds(kernel: Kernel, rates: Rates) -> float:
    return max(kernel.bytes / rates.bandwidth, kernel.flops / (REACHED * rates.flops))
