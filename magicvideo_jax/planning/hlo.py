"""Parser of HLO text (`compiled.as_text()`): computations of a program, and the largest arrays
that it allocates.
"""

import math
import re
from collections.abc import Iterator
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
_INSTRUCTION = re.compile(
    r"^  (?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>\(.*?\)|\S+) (?P<kind>[\w\-]+)\((?P<rest>.*)"
)
_LOOP = re.compile(r"\b(?:body|condition)=%?([\w.\-]+)")
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
        lines = [match for line in by_name[name] if (match := _INSTRUCTION.match(line))]
        producers = {match["name"]: match for match in lines if match["kind"] not in _ALIASES}
        returned = (
            [one for match in lines if match["root"] for one in _returned(match)]
            if name == entry
            else []
        )
        for match in lines:
            producer = producers.get(match["name"])
            if match["kind"] == "get-tuple-element":  # one result of an operation with several
                producer = producers.get(_operands(match)[0])
            if producer is None or producer["kind"].endswith("-start") or match["name"] in returned:
                continue
            # A memory space `S(n)` is not main memory but a TPU's vector memory, for example.
            array = ARRAY_PATTERN.fullmatch(match["result"])
            if array is None or "S(" in (array[3] or ""):
                continue
            op_name = re.search(r'op_name="([^"]*)"', producer["rest"])
            alike = arrays.setdefault((f"{array[1]}[{array[2]}]", array_bytes(*array.groups())), [])
            alike.append(op_name[1] if op_name else producer["kind"])
    ordered = sorted(arrays.items(), key=lambda item: -item[0][1])
    return [
        LargeArray(shape, bytes_each, len(operations), operations[0])
        for (shape, bytes_each), operations in ordered[:number]
    ]


def _allocating(by_name: dict[str, list[str]], name: str) -> Iterator[str]:
    """Yield the computations that allocate results: the entry, and its loops and branches."""
    yield name
    for line in by_name[name]:
        for one in _LOOP.findall(line) + branch_computations(line):
            yield from _allocating(by_name, one)


def _returned(root: re.Match[str]) -> list[str]:
    return _operands(root) if root["kind"] == "tuple" else [root["name"]]


def _operands(instruction: re.Match[str]) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction["rest"].split(")")[0])
