"""Requests as text from outside: the values of a form, and those of a link, which fill it again.

A link is `?model=demo&prompt=a+red+heart&seed=3`: the fields of `ClipRequest` by their names, and those
of `ModelChoice`. Whatever stands in it is checked as an argument of the command line is.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.text import is_utf8
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, parse_size

LONGEST_VALUE = 20_000
"""Letters of a value."""


@dataclass(frozen=True)
class ModelChoice:
    """A model of the page, by names that the server gave: paths never come from a browser."""

    model: str = ""
    """Name of a model; empty: the first."""
    lora: str = ""
    """Name of a file of the weight folders."""
    lora_scale: float = 1.0
    motion: str = ""
    """Name of a file of the weight folders."""


def typed_values(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `kind` among given texts and numbers, each of its field's type.

    Blank numbers are left out. Errors: `FieldError` naming the field.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for name, hint in hints.items():
        value = given.get(name)
        if value is None or (value == "" and hint is not str):
            continue
        read = _READERS[_bare(hint)]
        try:
            found[name] = read(name, value)
        except (ValueError, OverflowError, TypeError):
            shown = str(value)[:60]
            raise FieldError(f"{name}={shown}: give {_WORDS[_bare(hint)]}") from None
    return found


def link_query(request: ClipRequest, choice: ModelChoice) -> str:
    """The query of the link that asks for the same again: all fields that differ from the defaults."""
    pairs = []
    for part in (choice, request):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if value != field.default:
                text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
                pairs.append((field.name, text))
    return urlencode(pairs)


def settings_text(request: ClipRequest, choice: ModelChoice) -> dict[str, Any]:
    """What is kept inside a clip's file, as plain data: all that is not the default."""
    return {
        field.name: getattr(part, field.name)
        for part in (choice, request)
        for field in dataclasses.fields(part)
        if getattr(part, field.name) != field.default
    }


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if len(value) > LONGEST_VALUE:
        raise FieldError(f"{name} has {len(value)} letters: give at most {LONGEST_VALUE}")
    if not is_utf8(value):
        raise FieldError(f"{name} is not UTF-8: retype it")
    return value


def _whole(_: str, value: Any) -> int:
    if isinstance(value, str):
        if len(value) > 30 or not value.strip().isascii():
            raise ValueError
        return int(value)
    if isinstance(value, bool) or int(value) != value:
        raise ValueError
    return int(value)


def _number(_: str, value: Any) -> float:
    if isinstance(value, bool) or len(str(value)) > 400:
        raise ValueError
    return float(value)


def _flag(_: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


def _size(_: str, value: Any) -> tuple[int, ...] | None:
    return parse_size(value if isinstance(value, str) else "x".join(map(str, value)))


def _flag_or_error(name: str, value: Any) -> bool:
    try:
        return _flag(name, value)
    except KeyError:
        raise ValueError from None


_READERS: dict[type, Callable[[str, Any], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _flag_or_error,
    tuple: _size,
}
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "height and width in pixels, as in 320x512",
}


def _bare(hint: Any) -> type:
    """The type T of T, T | None, and tuple[T, ...]."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    kind = kinds[0] if kinds and typing.get_origin(hint) is not tuple else hint
    return typing.get_origin(kind) or kind
