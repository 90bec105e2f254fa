"""The one command that a GPU is measured with: what it prints, and what a failing slot does to the others."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from device import chosen, main, parse
from device_slots.losses import compare_losses
from device_slots.registry import SLOTS
from device_slots.schedule import measure_all
from device_slots.slot import READY, Lines, Size, Slot

PROGRAM = """
import sys, time
name = sys.argv[1].split("=")[1]
print("a library's own words" if name == "talks" else '{"value": 1}', flush=True)
if name == "fails": sys.exit("the reason")
if name == "hangs": time.sleep(600)
if name == "prepares":
    print('{"ready": true}', flush=True)
    sys.stdin.readline()
    print('{"value": 2}', flush=True)
"""


def nothing(size: Size) -> Iterator[dict]:
    yield READY


def slot(name: str, *, seconds: float = 60, prepares: bool = False, **more) -> Slot:
    return Slot(name, "", nothing, seconds, prepares, **more)


def measured(slots: list[Slot], tmp_path: Path, seconds: float = 60) -> list[dict]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with Lines(tmp_path / "lines") as lines:
        measure_all(slots, [sys.executable, str(program)], seconds=seconds, lines=lines)
    written = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert written == lines.written
    return written


def test_a_failing_slot_does_not_end_the_run(tmp_path):
    lines = measured([slot("fails"), slot("talks"), slot("works")], tmp_path)
    assert {"slot": "fails", "failed": "exit code 1: the reason"} in lines
    assert {"slot": "talks", "text": "a library's own words"} in lines
    assert lines[-1] == {"slot": "works", "value": 1}


def test_a_slot_that_overruns_is_stopped_and_the_others_go_on(tmp_path):
    lines = measured([slot("hangs", seconds=0.5), slot("works")], tmp_path)
    assert [line["slot"] for line in lines] == ["hangs", "hangs", "works"]
    assert lines[1]["failed"].startswith("stopped after")


def test_slots_compile_side_by_side_and_are_measured_in_turn(tmp_path):
    """What does not compile goes first; what never becomes ready is given up when time is over."""
    slots = [slot("prepares", prepares=True), slot("hangs", prepares=True), slot("works")]
    lines = measured(slots, tmp_path, seconds=4)
    found = [(line["slot"], line["value"]) for line in lines if "value" in line]
    assert found.index(("works", 1)) < found.index(("prepares", 2))
    assert lines[-1]["slot"] == "hangs"
    assert lines[-1]["failed"].startswith("not compiled")


def test_a_slot_without_its_modules_is_skipped(tmp_path):
    (line,) = measured([slot("works", needs=("no_such_module",))], tmp_path)
    assert line == {"slot": "works", "skipped": "no_such_module not installed"}


def test_only_and_skip_choose_slots():
    names = [one.name for one in SLOTS]
    assert len(set(names)) == len(names)
    assert [one.name for one in chosen(parse(["--only=rates,sample"]))] == ["rates", "sample"]
    assert [one.name for one in chosen(parse(["--skip=rates"]))] == [
        name for name in names if name != "rates"
    ]
    with pytest.raises(SystemExit):
        parse(["--only=no_such_slot"])


def test_losses_of_variants_are_compared_with_equal_clips():
    def line(name: str, clips: int, loss: float) -> dict:
        return {"slot": name, "clips": clips, "losses": [9.0, loss]}

    lines = [line("a", 12, 1.0), line("b", 12, 1.005), line("c", 2, 5.0)]
    assert compare_losses(lines)["agree"]
    assert compare_losses([*lines, line("d", 12, 1.1)])["agree"] is False
    assert compare_losses([*lines, line("d", 12, float("nan"))])["agree"] is False
    assert compare_losses(lines[2:])["agree"] is None


def test_a_rehearsal_prints_json_lines(tmp_path):
    """Slots run in processes of their own, as on a device. Training variants, which take minutes, are left out."""
    out = tmp_path / "lines"
    assert main(["--rehearse", "--only=versions,rates", f"--out={out}"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["slot"] for line in lines] == ["versions", "rates", "rates", "losses"]
    assert not [line for line in lines if "failed" in line]
