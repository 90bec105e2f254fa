"""Parser of HLO text (`compiled.as_text()`): computations of a program, and the largest arrays
that it allocates.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ARRAY_PATTERN = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
"""Type, shape and layout of an array, such as `bf16[16,32,64]{2,1,0:T(8,128)}`."""

_BITS = {
    "pred": 8,
    "bf16": 16,
    "c64": 64,
    "c128": 128,
}  # of others the name says it: f32, s8, u4, f8e4m3fn
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)?(.*)")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCH = re.compile(r"\b(?:true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# Operations that allocate nothing: their result aliases another array.
_ALIASES = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "optimization-barrier",
    "constant",
}


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    is_root: bool
    name: str
    result: str
    """Type, shape and layout of the result, or a tuple of them."""
    kind: str
    arguments: str
    """Text between its parentheses."""
    attributes: str
    """Text after them."""

    @property
    def operands(self) -> list[str]:
        """Names of its operands; `name#1` is the second element of a tuple."""
        return re.findall(r"%([\w.\-]+(?:#\d+)*)", self.arguments)

    @property
    def op_name(self) -> str:
        """JAX name of the operation, empty for what XLA adds itself."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class LargeArray:
    """Temporary arrays of one type and shape in a device's main memory."""

    shape: str
    """Type and shape, such as bf16[16,32,32,320]."""
    bytes: int
    """Size in bytes of one such array, padded to whole tiles."""
    number: int
    operation: str
    """JAX name of the operation that computes the first of them."""


def split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the entry computation."""
    by_name: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            lines = by_name.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return by_name, entry


def parse_instructions(lines: Iterable[str]) -> list[Instruction]:
    """Instructions among the lines of a computation."""
    matches = (match for line in lines if (match := _INSTRUCTION.match(line)))
    return [Instruction(bool(match[1]), *match.groups()[1:]) for match in matches]


def executions(
    by_name: dict[str, list[str]], name: str, *, into_calls: bool, times: int = 1
) -> Iterator[tuple[str, int]]:
    """Yield each executed computation with its number of executions, once per call site.

    `into_calls` follows fusions, and functions that an operation applies, as well as loops and
    branches.
    """
    yield name, times
    for line in by_name.get(name, []):
        loop = _LOOP.search(line)
        if loop:
            rounds = times * _rounds(line, by_name.get(loop[1], []))
            yield from executions(by_name, loop[2], into_calls=into_calls, times=rounds)
            continue
        called = _CALLED.findall(line) if into_calls or " call(" in line else []
        for one in called + branch_computations(line):
            if one in by_name:
                yield from executions(by_name, one, into_calls=into_calls, times=times)


def _rounds(loop: str, condition: list[str]) -> int:
    """Trip count of a loop: the one that XLA states, or the bound of a counter from 0, or else 1."""
    trip_count = re.search(r'known_trip_count":\{"n":"(\d+)"', loop)
    if trip_count:
        return int(trip_count[1])
    limits = [
        match[1]
        for line in condition
        if (match := re.search(r"= s32\[\]\S* constant\((\d+)\)", line))
    ]
    return int(limits[0]) if len(limits) == 1 else 1


def array_bytes(dtype: str, shape: str, layout: str | None = None) -> int:
    """Size of an array in bytes, padded to whole tiles where its layout has tiles
    (`3,2,1,0:T(8,128)`).
    """
    number = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype) or (int(number[0]) if number else 0)  # tokens have none
    sides = [int(side) for side in shape.split(",") if side]
    tile = re.search(r"^([\d,]+):T\(([\d,]+)\)", layout or "")
    if tile:
        inner = [int(axis) for axis in tile[1].split(",")]  # the innermost first, as in the layout
        for axis, side in zip(inner, reversed(tile[2].split(",")), strict=False):
            sides[axis] = math.ceil(sides[axis] / int(side)) * int(side)
    return math.prod(sides) * bits // 8


def branch_computations(line: str) -> list[str]:
    """Branch computations of a conditional instruction."""
    several = [name for names in _BRANCHES.findall(line) for name in re.findall(r"[\w.\-]+", names)]
    return _BRANCH.findall(line) + several


def largest_arrays(text: str, number: int) -> list[LargeArray]:
    """The `number` largest kinds of temporary arrays of a program, in descending order of size.

    They need not be live at the same time: arrays may share memory. Values inside fusions are not
    allocated.
    """
    by_name, entry = split_computations(text)
    arrays: dict[tuple[str, int], list[str]] = {}
    for name in _allocating(by_name, entry):
        instructions = parse_instructions(by_name[name])
        roots = [one for one in instructions if one.is_root and name == entry]
        returned = {result for root in roots for result in _returned(root)}
        # The names of an element: `%x#1`, or an instruction's that takes it.
        elements = {
            one.name: f"{one.operands[0]}#{_index(one)}"
            for one in instructions
            if one.kind == "get-tuple-element"
        }
        returned |= {elements[name] for name in returned & elements.keys()}
        for one in instructions:
            if one.kind in _ALIASES or one.kind.endswith("-start") or one.name in returned:
                continue
            for index, array in enumerate(ARRAY_PATTERN.finditer(one.result)):
                # A memory space `S(n)` is not main memory but a TPU's vector memory, for example.
                if f"{one.name}#{index}" in returned or "S(" in (array[3] or ""):
                    continue
                size = array_bytes(*array.groups())
                alike = arrays.setdefault((f"{array[1]}[{array[2]}]", size), [])
                alike.append(one.op_name or one.kind)
    ordered = sorted(arrays.items(), key=lambda item: -item[0][1])
    return [
        LargeArray(shape, bytes_each, len(operations), operations[0])
        for (shape, bytes_each), operations in ordered[:number]
    ]


def _allocating(by_name: dict[str, list[str]], name: str) -> Iterator[str]:
    """Yield the computations that allocate results: the entry, and its loops and branches."""
    yield name
    for line in by_name[name]:
        loop = _LOOP.search(line)
        for one in [*(loop.groups() if loop else ()), *branch_computations(line)]:
            yield from _allocating(by_name, one)


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.attributes)
    return int(found[1]) if found else 0


def _returned(root: Instruction) -> list[str]:
    return root.operands if root.kind == "tuple" else [root.name]
