"""XLA's text of a compiled program (`compiled.as_text()`): its computations, and the largest arrays that they make."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

ARRAY_PATTERN = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
"""`bf16[16,32,64]{2,1,0:T(8,128)}`: type, shape, and how it lies in memory."""

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
# They name what another operation has made, or was there before.
_NAMES = {
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
    """Arrays alike: what a program makes in a device's main memory, and does not return."""

    shape: str
    """With its type: bf16[16,32,32,320]."""
    bytes: int
    """Of one, tiles filled up."""
    number: int
    operation: str
    """Where the program as it is written makes the first of them."""


def split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines by the computation they stand in, and which one is the entry."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            lines = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return found, entry


def array_bytes(dtype: str, shape: str, layout: str | None = None) -> int:
    """Bytes of an array; with a layout that has tiles (`3,2,1,0:T(8,128)`), those of whole tiles."""
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
    """Computations that an instruction chooses from."""
    several = [name for names in _BRANCHES.findall(line) for name in re.findall(r"[\w.\-]+", names)]
    return _BRANCH.findall(line) + several


def largest_arrays(text: str, number: int) -> list[LargeArray]:
    """The largest arrays of a program, alike ones as one. They need not be there at the same time: where an array
    ends another may begin. What a fusion keeps to itself is none."""
    found, entry = split_computations(text)
    arrays: dict[tuple[str, int], list[str]] = {}
    for name in _in_memory(found, entry):
        lines = [match for line in found[name] if (match := _INSTRUCTION.match(line))]
        maker = {match["name"]: match for match in lines if match["kind"] not in _NAMES}
        returned = (
            [one for match in lines if match["root"] for one in _returned(match)]
            if name == entry
            else []
        )
        for match in lines:
            made_by = maker.get(match["name"])
            if (
                match["kind"] == "get-tuple-element"
            ):  # of what an operation makes that makes several
                made_by = maker.get(_operands(match)[0])
            if made_by is None or made_by["kind"].endswith("-start") or match["name"] in returned:
                continue
            array = ARRAY_PATTERN.fullmatch(match["result"])
            if array is None or "S(" in (
                array[3] or ""
            ):  # elsewhere: a TPU's vector memory, its registers
                continue
            said = re.search(r'op_name="([^"]*)"', made_by["rest"])
            alike = arrays.setdefault((f"{array[1]}[{array[2]}]", array_bytes(*array.groups())), [])
            alike.append(said[1] if said else made_by["kind"])
    ordered = sorted(arrays.items(), key=lambda item: -item[0][1])
    return [
        LargeArray(shape, of_one, len(made), made[0]) for (shape, of_one), made in ordered[:number]
    ]


def _in_memory(found: dict[str, list[str]], name: str) -> Iterator[str]:
    """Computations whose results lie in memory: the entry, and what it loops over and branches into."""
    yield name
    for line in found[name]:
        for one in _LOOP.findall(line) + branch_computations(line):
            yield from _in_memory(found, one)


def _returned(root: re.Match[str]) -> list[str]:
    return _operands(root) if root["kind"] == "tuple" else [root["name"]]


def _operands(instruction: re.Match[str]) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction["rest"].split(")")[0])
