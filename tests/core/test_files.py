"""Files and folders that appear complete or not at all."""

import json
import os
from pathlib import Path

import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write, write_json


def test_writers_with_one_process_id_do_not_meet(tmp_path):
    """Containers all give their process the number 1, and several hosts write one shared file."""
    file = tmp_path / "prepare.json"
    with atomic_write(file) as one, atomic_write(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_fails_leaves_nothing_and_changes_nothing(tmp_path, is_folder):
    target = tmp_path / "target"
    target.write_text("before")

    def fail():
        with atomic_write(target) as aside:
            if is_folder:
                aside.mkdir()
                (aside / "half").touch()
            else:
                aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def write_folder(target: Path, name: str, *, replaces_folder: bool) -> None:
    with atomic_write(target, replaces_folder=replaces_folder) as aside:
        aside.mkdir()
        (aside / name).touch()


def test_a_folder_is_replaced_only_where_that_is_asked_for(tmp_path):
    target = tmp_path / "target"
    write_folder(target, "one", replaces_folder=False)
    with pytest.raises(UserError, match=f"{target} cannot be written: Directory not empty"):
        write_folder(target, "two", replaces_folder=False)
    assert os.listdir(target) == ["one"]
    write_folder(target, "two", replaces_folder=True)
    assert os.listdir(target) == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_holds_no_number_that_json_does_not_have(tmp_path):
    """The PSNR of equal clips is infinite."""
    scores = {"psnr": float("inf"), "by": [{"loss": float("nan"), "clips": 3}], "ssim": 1.0}
    write_json(tmp_path / "metrics.json", scores)

    def refuse(constant: str):
        raise AssertionError(constant)

    text = (tmp_path / "metrics.json").read_text()
    expected = {"psnr": None, "by": [{"loss": None, "clips": 3}], "ssim": 1.0}
    assert json.loads(text, parse_constant=refuse) == expected
