"""Paths as people spell them name one place, and what is no local path is refused in a line."""

from pathlib import Path

import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path


def test_spellings_of_one_folder_are_one_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spellings = ("~/run", "run", "./run", "run/", "other/../run", f"{tmp_path}//run", Path("run"))
    assert {local_path(one, argument="--workdir") for one in spellings} == {tmp_path / "run"}
    assert local_path(".", argument="--out").name == tmp_path.name


@pytest.mark.parametrize(
    "given", ["", "  ", "gs://bucket/run", "s3://b", "file:///tmp/x", "~nobody-here/x", "a\0b"]
)
def test_what_is_no_local_path_is_one_line_that_names_the_argument(given):
    with pytest.raises(UserError, match="--workdir"):
        local_path(given, argument="--workdir")
