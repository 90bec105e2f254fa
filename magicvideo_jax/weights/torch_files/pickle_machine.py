"""A machine that reads a pickle as data: nothing that a pickle names is imported or called.

A pickle is a program for a stack machine. This one knows the operations that build numbers, texts and containers, and
in place of functions and classes the few names that `Meaning` lists; any other name is refused. It gives memory
to what a pickle holds and to nothing that it only announces.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

MOST_OPERATIONS = 5_000_000
"""Operations of the longest pickle; a checkpoint with its optimizer has 200,000."""


class PickleRefused(Exception):
    """A pickle that is broken or asks for more than data; its text continues `FILE: `."""


class ForeignName(PickleRefused):
    """A pickle that names a function or class which is no data."""


class Inert:
    """Stands where a pickle names a class or makes an object that is no weight. It keeps the state that it is given,
    which holds the tensors of a TorchScript module."""

    def __init__(self) -> None:
        self.state: Any = None


Meaning = Callable[[str], Callable[..., Any] | None]
"""What a dotted name stands for: a function of the arguments that a pickle calls it with; None: unknown."""


def run_pickle(
    file: io.BytesIO | mmap.mmap, meaning: Meaning, load_persistent: Callable[[Any], Any]
) -> Any:
    """The object of the pickle that begins where the file stands; the file is left behind its end.

    Files of these kinds reserve memory for what they hold, however much is asked for. `load_persistent` gives what an
    identifier of torch's storages stands for. Errors: `PickleRefused`.
    """
    machine = _Machine(meaning, load_persistent)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if operation.name == "STOP":
                return machine.pop()
            if count > MOST_OPERATIONS:
                raise PickleRefused("its pickle never ends")
            act = _OPERATIONS.get(operation.name)
            if act is None:
                raise PickleRefused(f"its pickle uses {operation.name}, which weights do not need")
            act(machine, argument)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise PickleRefused("its pickle is broken") from error
    raise PickleRefused("its pickle is cut off")


class PickleName:
    """A function or class that a pickle names and may call."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call


class _Machine:
    """The stack and the memo of a pickle, and what its operations do to them."""

    def __init__(self, meaning: Meaning, load_persistent: Callable[[Any], Any]):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.meaning, self.load_persistent = meaning, load_persistent

    def pop(self) -> Any:
        return self.take(1)[0]

    def take(self, count: int) -> tuple[Any, ...]:
        """The last values of the stack, which are taken away."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("fewer values above the last mark")
        values = tuple(self.stack[start:])
        del self.stack[start:]
        return values

    def pop_items(self) -> list[Any]:
        """What lies above the last mark, which is taken away, too."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self, dotted: str) -> None:
        call = self.meaning(dotted)
        if call is None:
            raise ForeignName(
                f"it names {ascii(dotted)[1:-1][:100]}, which is no tensor and could run code"
            )
        self.stack.append(PickleName(call))

    def call(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, PickleName) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        self.stack.append(function.call(*arguments))

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only such keys are asked for; the hash of others may take the depth of their nesting.
            target[key if isinstance(key, str | int | float | bytes) else Inert()] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state


def _pushes(make: Callable[[Any], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make(argument))


def _global_of_stack(machine: _Machine, _: Any) -> None:
    module, name = machine.take(2)
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name that is no text")
    machine.name(f"{module}.{name}")


_NUMBERS_AND_TEXTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    **{name: _pushes(lambda value: value) for name in _NUMBERS_AND_TEXTS},
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": _pushes(lambda _: None),
    "NEWTRUE": _pushes(lambda _: True),
    "NEWFALSE": _pushes(lambda _: False),
    "EMPTY_DICT": _pushes(lambda _: {}),
    "EMPTY_LIST": _pushes(lambda _: []),
    "EMPTY_TUPLE": _pushes(lambda _: ()),
    "EMPTY_SET": _pushes(lambda _: []),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_items(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_items())),
    "TUPLE1": lambda machine, _: machine.stack.append(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.stack.append(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.stack.append(machine.take(3)),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_items()),
    "DICT": lambda machine, _: _dict_of(machine, machine.pop_items()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.pop_items()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_items()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_items()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_items()),
    "PUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    "GET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "GLOBAL": lambda machine, name: machine.name(name.replace(" ", ".")),
    "STACK_GLOBAL": _global_of_stack,
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.load_persistent(machine.pop())),
}


def _dict_of(machine: _Machine, items: list[Any]) -> None:
    machine.stack.append({})
    machine.set_items(items)
