"""Configuration as frozen dataclasses: to plain data and, strictly, back."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from magicvideo_jax.core.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, enums their values, lists tuples: JSON holds them, and a command line may override them
    (ml_collections overrides no list)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return tuple(to_plain(item) for item in value)
    return value


def from_plain(kind: type[T], plain: Mapping[str, Any], where: str = "config") -> T:
    """The inverse of `to_plain`. `UserError` names a field that is unknown or ill-typed.

    Absent fields have their defaults, so that what was written before there was a field is still read.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    needed = {
        field.name
        for field in fields.values()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(plain) - set(fields)), sorted(needed - set(plain))
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: no such field; {where} has {', '.join(fields)}")
    if missing:
        raise UserError(f"{where}.{missing[0]}: missing")
    return kind(
        **{name: _typed(hints[name], value, f"{where}.{name}") for name, value in plain.items()}
    )


def optional_numbers(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The fields of a dataclass, and of those in it, that hold a number or none: dotted path and type."""
    for name, hint in typing.get_type_hints(kind).items():
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from optional_numbers(hint, f"{prefix}{name}.")
        elif isinstance(hint, types.UnionType) and choices in ([float], [int]):
            yield f"{prefix}{name}", choices[0]


def _typed(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        (hint,) = (choice for choice in typing.get_args(hint) if choice is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(
                f"{where}={value!r}: give fields, like {where}.{dataclasses.fields(hint)[0].name}=..."
            )
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
        return float(value)
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
