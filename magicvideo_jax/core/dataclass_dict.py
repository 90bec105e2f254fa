"""Configuration as frozen dataclasses: to plain data and, strictly, back."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts, enums as their values, lists as tuples: JSON holds them, and a command line may override
    them (ml_collections overrides no list)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return tuple(to_plain(item) for item in value)
    return value


def from_plain(kind: type[T], plain: Any, where: str = "config") -> T:
    """The inverse of `to_plain`. Absent fields have their defaults: files written before a field existed stay readable.

    Errors: `UserError` with the full path, `where` first, of a field that is unknown, missing, ill-typed, or refused by
    its dataclass.
    """
    if not isinstance(plain, Mapping):
        raise UserError(f"{where}={plain!r}: give fields, like {where}.{_names(kind)[0]}=...")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    needed = {
        field.name
        for field in fields.values()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(plain) - set(fields)), sorted(needed - set(plain))
    if unknown:
        raise UserError(_no_such_field(kind, unknown[0], where))
    if missing:
        raise UserError(f"{where}.{missing[0]}: missing")
    typed = {name: _typed(hints[name], value, f"{where}.{name}") for name, value in plain.items()}
    try:
        return kind(**typed)
    except FieldError as error:
        raise UserError(f"{where}.{error}") from None


def find_unknown(kind: type, path: str, where: str = "config") -> str | None:
    """The error for a dotted path that leads to no field of `kind`, naming the fields that there are; None if it leads
    to one."""
    name, _, rest = path.partition(".")
    if name not in _names(kind):
        return _no_such_field(kind, name, where)
    hint = _without_none(typing.get_type_hints(kind)[name])
    if rest and dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return find_unknown(hint, rest, f"{where}.{name}")
    return None


def optional_numbers(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted path and type of every field, at any depth, that holds a number or none."""
    for name, hint in typing.get_type_hints(kind).items():
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from optional_numbers(hint, f"{prefix}{name}.")
        elif isinstance(hint, types.UnionType) and choices in ([float], [int]):
            yield f"{prefix}{name}", choices[0]


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _no_such_field(kind: type, name: str, where: str) -> str:
    return f"{where}.{name}: no such field; {where} has {', '.join(_names(kind))}"


def _without_none(hint: Any) -> Any:
    """T for T | None, and any other type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (choice for choice in typing.get_args(hint) if choice is not type(None))
    return hint


def _typed(hint: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, where)
    if typing.get_origin(hint) is tuple:
        return _typed_tuple(typing.get_args(hint), value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise UserError(
                f"{where}={value!r}: give one of {', '.join(str(e.value) for e in hint)}"
            ) from None
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}={value!r}: give a smaller number") from None
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise UserError(f"{where}={value!r}: give a value of type {hint.__name__}")
    return value


def _typed_tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}={value!r}: give a list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise UserError(f"{where}={value!r}: give {len(hints)} values")
    return tuple(
        _typed(hint, item, f"{where}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )
