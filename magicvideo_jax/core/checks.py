"""Checks that a configuration dataclass makes of its own fields, in `__post_init__`.

A check names the bare field (`FieldError`); whoever builds the dataclass knows where it stands and puts that in front
(`named`): `from_plain` the path, as in `config.optim.lr`, a command line `--`. Fields that are None are unset and pass.
NaN and infinity never pass, nor do numbers beyond the float32 and int32 in which programs compute.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from magicvideo_jax.core.errors import UserError

_LARGEST = {int: 2**31 - 1, float: 2.0**127}
_SMALLEST_NORMAL = 2.0**-126
"""Positive numbers below it count as zero on accelerators."""


class FieldError(UserError):
    """A refused value of a dataclass field: `FIELD=VALUE: what to give`, without the path to the dataclass."""


@contextmanager
def named(prefix: str) -> Iterator[None]:
    """Put `prefix` (`config.optim.`, `--`) in front of the field that a `FieldError` names."""
    try:
        yield
    except FieldError as error:
        raise FieldError(f"{prefix}{error}") from None


def refused(config: Any, name: str, advice: str) -> FieldError:
    """The error for a field, with its value and what to give instead."""
    value = getattr(config, name)
    return FieldError(f"{name}={value.value if isinstance(value, Enum) else value}: {advice}")


def at_least(least: int, config: Any, *names: str) -> None:
    """Refuse numbers below `least`, and those too large to compute with."""
    for name, value in _set(config, names):
        largest = _LARGEST[type(value)]
        if not value >= least:
            raise refused(config, name, f"give at least {least}")
        if value > largest:
            raise refused(config, name, f"give at most {largest:.10g}")


def positive(config: Any, *names: str) -> None:
    """Refuse zero, negative numbers, and those too small or too large to compute with."""
    for name, value in _set(config, names):
        if not value >= _SMALLEST_NORMAL:
            raise refused(config, name, "give more than 0")
    at_least(0, config, *names)


def at_most(most: int, config: Any, *names: str) -> None:
    """Refuse numbers above `most`."""
    for name, value in _set(config, names):
        if not value <= most:
            raise refused(config, name, f"give at most {most}")


def share(config: Any, *names: str) -> None:
    """Refuse what is outside of [0, 1]."""
    for name, value in _set(config, names):
        if not 0 <= value <= 1:
            raise refused(config, name, "give a share from 0 to 1")


def below_one(config: Any, *names: str) -> None:
    """Refuse what is outside of [0, 1): the decay of a running mean."""
    for name, value in _set(config, names):
        if not 0 <= value < 1:
            raise refused(config, name, "give 0 up to less than 1")


def divides(total: int, config: Any, name: str, *, of: str) -> None:
    """Refuse a field that does not divide `total`; `of` says what `total` is."""
    at_least(1, config, name)
    if total % getattr(config, name):
        raise refused(config, name, f"give a number that divides {total}, {of}")


def not_empty(config: Any, *names: str) -> None:
    """Refuse empty tuples and blank strings."""
    for name, value in _set(config, names):
        if not (value.strip() if isinstance(value, str) else value):
            raise FieldError(f"{name} is empty: give at least one")


def _set(config: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if (value := getattr(config, name)) is not None:
            yield name, value
