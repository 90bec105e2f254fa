"""Fields of a configuration file, read one by one: absent ones take the default of the library
that wrote the file."""

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, TypeVar

from magicvideo_jax.core.errors import UserError

Choice = TypeVar("Choice", bound=Enum)

_MOST_CHARACTERS = 120


class Fields:
    """A JSON object with defaults behind it, and the name of its file for errors."""

    def __init__(self, content: Mapping[str, Any], defaults: Mapping[str, Any], *, where: str):
        self.content, self.defaults, self.where = content, defaults, where

    def get(self, field: str) -> Any:
        return self.content.get(field, self.defaults[field])

    def integer(self, field: str) -> int:
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refused(field, "a positive integer")
        return value

    def number(self, field: str) -> float:
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused(field, "a number")
        return float(value)

    def switch(self, field: str) -> bool:
        value = self.get(field)
        if not isinstance(value, bool):
            raise self.refused(field, "true or false")
        return value

    def switches(self, field: str, *, length: int) -> tuple[bool, ...]:
        """A list of switches; one stands for that many equal ones."""
        value: Any = self.get(field)
        value = (value,) * length if isinstance(value, bool) else value
        if (
            not isinstance(value, list | tuple)
            or len(value) != length
            or not all(isinstance(v, bool) for v in value)
        ):
            raise self.refused(field, f"true or false, or {length} of them")
        return tuple(value)

    def word(self, field: str, words: type[Choice]) -> Choice:
        try:
            return words(self.get(field))
        except ValueError:
            raise self.refused(field, " or ".join(repr(word.value) for word in words)) from None

    def integers(self, field: str, *, length: int | None = None) -> tuple[int, ...]:
        """A list of positive integers; with a `length`, one integer stands for that many equal
        ones."""
        value: Any = self.get(field)
        if length is not None and isinstance(value, int) and not isinstance(value, bool):
            value = (value,) * length
        if (
            not isinstance(value, list | tuple)
            or not value
            or length not in (None, len(value))
            or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in value)
        ):
            raise self.refused(field, f"{length or 'some'} positive integers")
        return tuple(value)

    def names(self, field: str, *, length: int) -> tuple[str, ...]:
        value = self.get(field)
        if (
            not isinstance(value, list | tuple)
            or len(value) != length
            or not all(isinstance(v, str) for v in value)
        ):
            raise self.refused(field, f"{length} names")
        return tuple(value)

    def only(self, supported: Mapping[str, Collection[Any]]) -> None:
        """Refuse fields with values other than these; lists count by their elements."""
        for field, values in supported.items():
            value = self.get(field)
            for each in value if isinstance(value, list | tuple) else [value]:
                # 1 == True in Python; a switch is not a number here.
                if not any(
                    each == v and isinstance(each, bool) == isinstance(v, bool) for v in values
                ):
                    raise self.refused(field, " or ".join(map(repr, values)))

    def known(self, *fields: Collection[str]) -> None:
        """Refuse fields that are in none of the collections: what they ask for would be left out
        silently."""
        for field, value in self.content.items():
            if (
                not field.startswith("_")
                and value not in (None, False)
                and not any(field in some for some in fields)
            ):
                raise UserError(
                    f"{self.where}: field '{field}' ({_short(value)}) is not known to this project"
                )

    def refused(self, field: str, wanted: str) -> UserError:
        absent = "" if field in self.content else " (its default; the field is absent)"
        return UserError(
            f"{self.where}: field '{field}' is {_short(self.get(field))}{absent}; supported: {wanted}"
        )


def _short(value: Any) -> str:
    """The value for a message; long lists are cut."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
