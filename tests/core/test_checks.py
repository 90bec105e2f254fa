"""Checks of configuration fields: what passes, and the one line that says what does not."""

from dataclasses import dataclass
from enum import Enum

import pytest

from magicvideo_jax.core import checks
from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.dataclass_dict import find_unknown, from_plain
from magicvideo_jax.core.errors import UserError


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    colour: Colour = Colour.RED

    def __post_init__(self) -> None:
        checks.share(self, "rate")


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None


@dataclass(frozen=True)
class Number:
    x: float | int | None = None


NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, -1, -1e-9, 1e39, 2**31])
@pytest.mark.parametrize("check", ["at_least", "positive", "share", "below_one", "at_most"])
def test_no_check_lets_through_what_a_program_cannot_compute_with(check, value):
    arguments = {"at_least": (0,), "at_most": (60,)}.get(check, ())
    if check == "at_most" and value < 0:
        return
    with pytest.raises(FieldError, match=r"^x=.*: give "):
        getattr(checks, check)(*arguments, Number(value), "x")


def test_checks_let_through_their_bounds_and_what_is_not_set():
    for value in (0, 0.0, 1, 1.0, None):
        checks.share(Number(value), "x")
        checks.at_least(0, Number(value), "x")
        checks.at_most(1, Number(value), "x")
    checks.below_one(Number(0), "x")
    checks.positive(Number(1e-30), "x")
    checks.at_least(1, Number(2**31 - 1), "x")
    checks.divides(8, Number(4), "x", of="the width")
    with pytest.raises(FieldError, match=r"^x=3: give a number that divides 8, the width$"):
        checks.divides(8, Number(3), "x", of="the width")
    with pytest.raises(FieldError, match=r"^x=0: give at least 1$"):
        checks.divides(8, Number(0), "x", of="the width")


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"inner": {"rate": 2}}, "config.inner.rate=2.0: give a share from 0 to 1"),
        ({"several": [{}, {"rate": -1}]}, "config.several[1].rate=-1.0: give a share from 0 to 1"),
        ({"maybe": {"rate": 2}}, "config.maybe.rate=2.0: give a share from 0 to 1"),
        ({"inner": {"rat": 1}}, "config.inner.rat: no such field; config.inner has rate, colour"),
        ({"inner": 3}, "config.inner=3: give fields, like config.inner.rate=..."),
        ({"inner": {"rate": 10**400}}, f"config.inner.rate={10**400}: give a smaller number"),
        ({"inner": {"colour": "blue"}}, "config.inner.colour='blue': give one of red"),
        ([], "config=[]: give fields, like config.inner=..."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_carries_the_whole_path_of_the_field_once(plain, said):
    with pytest.raises(UserError) as raised:
        from_plain(Outer, plain)
    assert str(raised.value) == said


def test_a_path_that_leads_nowhere_is_told_what_there_is():
    assert find_unknown(Outer, "inner.rate") is None
    assert find_unknown(Outer, "maybe.rate") is None
    assert find_unknown(Outer, "maybe") is None
    said = find_unknown(Outer, "maybe.speed")
    assert said == "config.maybe.speed: no such field; config.maybe has rate, colour"
    said = find_unknown(Outer, "iner.rate")
    assert said == "config.iner: no such field; config has inner, several, maybe"
