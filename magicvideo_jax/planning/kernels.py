"""Kernels of a program that XLA compiled for a GPU, with their bytes and FLOPs, parsed from its
HLO text.

Each instruction outside of fusions is one kernel (a call of cuBLAS or cuDNN counts as one). Its
bytes are its operands and results, each moved once: a slice of an operand counts as the slice, an
update in place as the update. FLOPs are those of matrix products, convolutions and attention;
products that cuDNN's attention computes again in its backward pass count.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from magicvideo_jax.planning.collectives import COLLECTIVE_KINDS
from magicvideo_jax.planning.hlo import (
    ARRAY_PATTERN,
    Instruction,
    array_bytes,
    executions,
    parse_instructions,
    split_computations,
)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a program."""

    operation: str
    """Class of operation: a name in `OPERATIONS`."""
    bytes: int
    flops: int
    times: int
    """Number of executions."""


@dataclass(frozen=True)
class _Traits:
    """What decides on the class of a kernel."""

    instruction: Instruction
    kind: str
    """Kind of instruction, without what makes it asynchronous."""
    target: str
    """Function of a library that it calls, if any."""
    flops: int
    is_backward: bool
    is_update: bool
    """Whether it lies outside of the differentiated function of a training step."""

    @property
    def is_copy(self) -> bool:
        """Whether it is a copy, also one that XLA fused with a change of layout."""
        names = ("copy", "transpose", "wrapped_transpose", "input_transpose_fusion")
        return self.kind in names or self.instruction.name.startswith(names)


_FRAME_KERNEL = "gpu.triton"
"""Part of the target of Pallas' kernels, of which `models.frame_kernel` has the only ones."""

OPERATIONS: tuple[tuple[str, Callable[[_Traits], bool]], ...] = (
    ("collective", lambda k: k.kind in COLLECTIVE_KINDS),
    ("attention, backward", lambda k: "fmha" in k.target and k.is_backward),
    ("attention", lambda k: "fmha" in k.target),
    ("attention over frames, backward", lambda k: _FRAME_KERNEL in k.target and k.is_backward),
    ("attention over frames", lambda k: _FRAME_KERNEL in k.target),
    ("convolution, gradient of kernel", lambda k: "convBackwardFilter" in k.target),
    ("convolution, gradient of input", lambda k: "conv" in k.target and k.is_backward),
    ("convolution", lambda k: "conv" in k.target),
    ("product, backward", lambda k: k.flops > 0 and k.is_backward),
    ("product", lambda k: k.flops > 0),
    ("copy", lambda k: k.is_copy),
    ("update: gradient norm, AdamW, average", lambda k: k.is_update),
    ("sum", lambda k: "kind=kInput" in k.instruction.attributes or k.kind == "reduce"),
    ("elementwise, backward", lambda k: k.is_backward),
    ("elementwise", lambda k: True),
)
"""Classes of operations: the first that fits a kernel is its class."""

# Instructions that launch nothing: names for memory, and bodies whose kernels are counted instead.
_NO_KERNEL = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "optimization-barrier",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "while",
    "conditional",
    "call",
}

_RETURNS_OPERANDS = {"all-gather-start", "collective-permute-start", "async-start"}
"""Asynchronous instructions whose result holds their operands too."""


def find_kernels(program: str) -> list[Kernel]:
    """Kernels in the text of a program that is compiled for a GPU (`compiled.as_text()`)."""
    by_name, entry = split_computations(program)
    bodies = cache(lambda name: parse_instructions(by_name[name]))
    is_training = "jvp(" in program
    kernels = []
    for name, times in executions(by_name, entry, into_calls=False):
        instructions = bodies(name)
        results = {one.name: one.result for one in instructions}
        for one in instructions:
            if one.kind in _NO_KERNEL or one.kind.endswith("-done"):
                continue
            called = re.search(r"\bcalls=%?([\w.\-]+)", one.attributes)
            body = bodies(called[1]) if called else []
            traits = _traits(one, results, body, is_training=is_training)
            operation = next(label for label, is_such in OPERATIONS if is_such(traits))
            kernels.append(Kernel(operation, _bytes(one, results, body), traits.flops, times))
    return kernels


def _traits(
    one: Instruction, results: dict[str, str], body: list[Instruction], *, is_training: bool
) -> _Traits:
    called = re.search(r'custom_call_target="([^"]*)"', one.attributes)
    target, kind = called[1] if called else "", one.kind.removesuffix("-start")
    if kind == "async":  # a body of one instruction
        kind = next(each.kind for each in body if each.is_root)
    return _Traits(
        one,
        kind,
        target,
        _flops(one, results, target, body),
        is_backward="transpose(" in one.op_name,
        is_update=is_training and bool(one.op_name) and "jvp(" not in one.op_name,
    )


def _bytes(one: Instruction, results: dict[str, str], body: list[Instruction]) -> int:
    """Bytes that an instruction reads and writes; `body` is that of a fusion."""
    written = _sizes(one.result)
    # The last result of a library's call is scratch memory.
    if one.kind == "custom-call" and re.search(r"\b[su]8\[\d*\](\{0\})?\)$", one.result):
        written = written[:-1]
    if one.kind in _RETURNS_OPERANDS:
        return sum(written)
    parameters = {int(each.arguments): each for each in body if each.kind == "parameter"}
    if len(parameters) != len(one.operands):
        return sum(written) + sum(sum(_sizes(_type_of(name, results))) for name in one.operands)
    read = sum(_bytes_read(parameters[i].name, body) for i in range(len(parameters)))
    update = _update(next(each for each in body if each.is_root), body)
    return read + (sum(written) if update is None else update)


def _bytes_read(name: str, body: list[Instruction]) -> int:
    """Bytes that a fusion reads of the value called `name`: all, or slices of it."""
    (whole,) = (sum(_sizes(each.result)) for each in body if each.name == name)
    read = 0
    for each in body:
        if name not in each.operands:
            continue
        if each.kind in ("slice", "dynamic-slice", "gather") and each.operands[0] == name:
            read += sum(_sizes(each.result))
        elif each.kind == "bitcast":
            read += _bytes_read(each.name, body)
        elif each.kind != "dynamic-update-slice" or each.operands[0] != name:
            return whole
    return min(read, whole)


def _update(root: Instruction, body: list[Instruction]) -> int | None:
    """Bytes that a fusion writes in place, None where it writes its whole result."""
    while root.kind == "bitcast":
        root = next(each for each in body if each.name == root.operands[0])
    if root.kind != "dynamic-update-slice":
        return None
    return sum(sum(_sizes(each.result)) for each in body if each.name == root.operands[1])


def _flops(one: Instruction, results: dict[str, str], target: str, body: list[Instruction]) -> int:
    """FLOPs of a library's call, or of the products in a fusion."""
    if "cublas" in target:
        contracted = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', one.attributes)
        assert contracted, one.attributes
        axes = [int(axis) for axis in json.loads(contracted[1])]
        return _product_flops(one.result, _type_of(one.operands[0], results), axes)
    if "conv" in target:
        return _convolution_flops(one, results, target)
    if "fmha" in target:
        # Batch, heads, queries and keys of the scores, which are never written.
        scores = re.search(
            r'"intermediate_tensor_shape":.*?"dimensions":(\[[^\]]*\])', _packed(one)
        )
        assert scores, one.attributes
        products = 5 if "Backward" in target else 2
        return 2 * products * math.prod(map(int, json.loads(scores[1]))) * _sides(one.result)[-1]
    if _FRAME_KERNEL in target:
        # Queries, keys and values, (b, t, p, 3, n, d), what is added to scores, and between them
        # the gradient of the values.
        products = 5 if len(one.operands) == 3 else 2
        b, t, p, _, n, d = _sides(_type_of(one.operands[0], results))
        return 2 * products * b * t * t * p * n * d
    dots = [each for each in (*body, one) if each.kind == "dot"]
    types = results | {each.name: each.result for each in body}
    return sum(
        _product_flops(each.result, _type_of(each.operands[0], types), _contracted(each))
        for each in dots
    )


def _packed(one: Instruction) -> str:
    return one.attributes.replace(" ", "")


def _contracted(dot: Instruction) -> list[int]:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    return [int(axis) for axis in found[1].split(",") if axis] if found else []


def _product_flops(result: str, left: str, contracted: list[int]) -> int:
    sides = _sides(left)
    return 2 * math.prod(_sides(result)) * math.prod(sides[axis] for axis in contracted)


def _convolution_flops(one: Instruction, results: dict[str, str], target: str) -> int:
    """FLOPs of a convolution or of one of its gradients, which are as many."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", one.attributes)
    window = re.search(r"window=\{size=([\dx]+)", one.attributes)
    assert labels, one.attributes
    first, second = (_type_of(name, results) for name in one.operands[:2])
    output, kernel = one.result, second
    if "BackwardFilter" in target:
        output, kernel = second, one.result
    elif "BackwardInput" in target:
        output = first
    taps = math.prod(map(int, window[1].split("x"))) if window else 1
    return 2 * math.prod(_sides(output)) * _sides(kernel)[labels[1].index("i")] * taps


def _sizes(result: str) -> list[int]:
    """Bytes of each array of a type."""
    return [array_bytes(dtype, shape) for dtype, shape, _ in ARRAY_PATTERN.findall(result)]


def _sides(result: str) -> list[int]:
    """Shape of the first array of a type."""
    first = ARRAY_PATTERN.search(result)
    return [int(side) for side in first[2].split(",") if side] if first else []


def _type_of(operand: str, results: dict[str, str]) -> str:
    """Type of an operand, which may be an element of a tuple (`name#1`)."""
    name, *index = operand.split("#")
    result = results[name]
    return (
        [match[0] for match in ARRAY_PATTERN.finditer(result)][int(index[0])] if index else result
    )
