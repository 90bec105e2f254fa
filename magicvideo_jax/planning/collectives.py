"""Collective operations of a compiled program and the bytes that they send, parsed from its HLO
text.

Bytes that a chip sends by the ring algorithm in a group of g chips, where the full array of the
operation (the gathered or the reduced one) has n bytes:

    all-gather, reduce-scatter, all-to-all    n (g - 1) / g
    all-reduce                                2 n (g - 1) / g
    collective-permute                        n

Operations in a loop's body count once per iteration where the text states the trip count.
"""

import math
import re
from dataclasses import dataclass

from magicvideo_jax.planning.hlo import (
    ARRAY_PATTERN,
    array_bytes,
    executions,
    split_computations,
)

COLLECTIVE_KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)

_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVE_KINDS)})(-start)?\(")


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program."""

    kind: str
    bytes: int
    """Size of the full array."""
    group: int
    """Number of chips that take part together."""
    times: int
    """Number of executions per step."""

    @property
    def sent(self) -> int:
        """Bytes that a chip sends per step."""
        if self.kind == "collective-permute":
            return self.times * self.bytes
        ways = 2 if self.kind == "all-reduce" else 1
        return self.times * ways * self.bytes * (self.group - 1) // self.group


def find_collectives(program: str, devices: int) -> list[Collective]:
    """Collective operations in the text of a compiled program (`compiled.as_text()`) for `devices`
    devices.
    """
    by_name, entry = split_computations(program)
    operations: dict[tuple[str, str], Collective] = {}
    for name, times in executions(by_name, entry, into_calls=True):
        for number, line in enumerate(by_name[name]):
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            result, kind, is_start = match.groups()
            group = _group_size(line, devices)
            sizes = [array_bytes(dtype, shape) for dtype, shape, _ in ARRAY_PATTERN.findall(result)]
            if is_start and kind == "all-gather":
                sizes = sizes[len(sizes) // 2 :]  # (operands, results)
            elif is_start and kind == "collective-permute":
                sizes = sizes[1:2]  # (operand, result, ..)
            full = sum(sizes) * (group if kind == "reduce-scatter" else 1)
            # libtpu writes a reduce-scatter as a fusion of an all-reduce and a slice.
            if "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            # libtpu writes an asynchronous operation as several fusions with one channel id.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else f"{name}/{number}")
            operations.setdefault(key, Collective(kind, full, group, times))
    return [one for one in operations.values() if one.group > 1]


def totals_by_kind(operations: list[Collective]) -> dict[str, dict[str, int]]:
    """Executed `operations` and `bytes_sent` per chip and step, by kind of collective."""
    return {
        kind: {
            "operations": sum(one.times for one in operations if one.kind == kind),
            "bytes_sent": sum(one.sent for one in operations if one.kind == kind),
        }
        for kind in COLLECTIVE_KINDS
    }


def _group_size(line: str, devices: int) -> int:
    """Size of the replica groups, written as `{{0,1},{2,3}}`, `[2,4]<=[8]` or `mesh['a'=2,'b'=4]
    {'b'}`.

    Without any, all devices form one group.
    """
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        axes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        return math.prod(axes[axis] for axis in re.findall(r"'([^']+)'", match[2]))
    return devices
