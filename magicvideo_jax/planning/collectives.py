"""What chips say to one another in a compiled program, read from XLA's text of it.

Bytes that a chip sends, by the ring algorithm among its group of g chips, where the operation's whole array (the
gathered one, the one that is reduced) has n bytes:

    all-gather, reduce-scatter, all-to-all    n (g - 1) / g
    all-reduce                                2 n (g - 1) / g
    collective-permute                        n

What a loop's body sends counts as often as it runs, where the text tells how often.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from magicvideo_jax.planning.hlo import (
    ARRAY_PATTERN,
    array_bytes,
    branch_computations,
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
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")


@dataclass(frozen=True)
class Collective:
    """One operation of a program."""

    kind: str
    bytes: int
    """Of its whole array."""
    group: int
    """Chips that take part together."""
    times: int
    """It runs in a step."""

    @property
    def sent(self) -> int:
        """Bytes that a chip sends in a step."""
        if self.kind == "collective-permute":
            return self.times * self.bytes
        ways = 2 if self.kind == "all-reduce" else 1
        return self.times * ways * self.bytes * (self.group - 1) // self.group


def find_collectives(program: str, devices: int) -> list[Collective]:
    """All of a program's (`compiled.as_text()`), which runs on so many devices."""
    by_name, entry = split_computations(program)
    found: dict[tuple[str, str], Collective] = {}
    for name, times in _calls(by_name, entry, 1):
        for number, line in enumerate(by_name[name]):
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            result, kind, starts = match.groups()
            group = _group_size(line, devices)
            sizes = [array_bytes(dtype, shape) for dtype, shape, _ in ARRAY_PATTERN.findall(result)]
            if starts and kind in ("all-gather", "collective-permute"):
                sizes = sizes[1:2]  # (operand, result, ..)
            whole = sum(sizes) * (group if kind == "reduce-scatter" else 1)
            if (
                "all-reduce-scatter" in name
            ):  # libtpu's form: a fusion of an all-reduce and a slice of it
                kind = "reduce-scatter"
            # libtpu writes an asynchronous operation in several fusions: one channel.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else f"{name}/{number}")
            found.setdefault(key, Collective(kind, whole, group, times))
    return [one for one in found.values() if one.group > 1]


def totals_by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Operations (a loop's counted as often as they run) and bytes that a chip sends, by kind."""
    return {
        kind: {
            "operations": sum(one.times for one in found if one.kind == kind),
            "bytes_sent": sum(one.sent for one in found if one.kind == kind),
        }
        for kind in COLLECTIVE_KINDS
    }


def _calls(by_name: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Every computation that runs, and how often, once for each place it is called from."""
    yield name, times
    for line in by_name.get(name, []):
        loop = _LOOP.search(line)
        if loop:
            rounds = _rounds(line, by_name.get(loop[1], []))
            yield from _calls(by_name, loop[2], times * rounds)
            continue
        for one in _CALLED.findall(line) + branch_computations(line):
            if one in by_name:
                yield from _calls(by_name, one, times)


def _rounds(loop: str, condition: list[str]) -> int:
    """How often a loop runs: XLA's own word, or the number that a counter from 0 is compared with; else 1."""
    said = re.search(r'known_trip_count":\{"n":"(\d+)"', loop)
    if said:
        return int(said[1])
    limits = [
        match[1]
        for line in condition
        if (match := re.search(r"= s32\[\]\S* constant\((\d+)\)", line))
    ]
    return int(limits[0]) if len(limits) == 1 else 1


def _group_size(line: str, devices: int) -> int:
    """`{{0,1},{2,3}}`, `[2,4]<=[8]` or `mesh['a'=2,'b'=4] {'b'}`; none: all."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        axes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        return math.prod(axes[axis] for axis in re.findall(r"'([^']+)'", match[2]))
    return devices
