"""Places that cannot be written are refused before anything long begins."""

import os
import sys

import pytest

from magicvideo_jax import evaluate, sample
from magicvideo_jax.media.clip_files import numbered_targets


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what people have in the way; nothing that takes time may be reached."""

    def long_work(*_, **__):
        raise AssertionError("began before it asked whether the result can be written")

    monkeypatch.setattr("magicvideo_jax.experiment.pipeline.load", long_work)
    monkeypatch.setattr("magicvideo_jax.experiment.scoring.evaluate_weights", long_work)
    (tmp_path / "file").write_text("a file")
    for folder in ("clip.mp4", "clip_1.mp4", "notes", "run/metrics.json", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(verb, *arguments, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["verb", *arguments])
    with pytest.raises(SystemExit) as end:
        verb.main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("out", "more", "said"),
    [
        ("file/clip.mp4", (), "Not a directory"),
        ("clip.mp4", (), "clip.mp4 cannot be written: Is a directory"),
        ("clip.mp4", ("--num=2",), "clip_1.mp4 cannot be written: Is a directory"),
        ("notes", (), "notes/ holds thesis.txt, which is no frame"),
        (".", (), "/ holds "),
        ("file", (), "file cannot be written: Not a directory"),
        ("clip.avi", (), "give a name ending in .mp4 or .gif"),
        ("", (), "--out is empty"),
        ("", ("--num=2",), "--out is empty"),
        ("/", ("--num=2",), "--out=/: give the name of a file or folder"),
        ("gs://bucket/clip.mp4", (), "--out=gs://bucket/clip.mp4: only local paths"),
        ("a.mp4", ("--prompt=" + os.fsdecode(b"caf\xe9"),), "--prompt is not UTF-8"),
        ("a.mp4", ("--negative_prompt=" + os.fsdecode(b"\xe9"),), "--negative_prompt is not UTF-8"),
    ],
)
def test_sample_asks_for_its_targets_first(place, monkeypatch, capsys, out, more, said):
    arguments = ("--workdir=embedded", "--prompt=a red heart", f"--out={out}", *more)
    assert said in error_of(sample, *arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_evaluate_asks_for_its_table_first(place, monkeypatch, capsys):
    error = error_of(evaluate, "--workdir=run", monkeypatch=monkeypatch, capsys=capsys)
    assert "metrics.json cannot be written: Is a directory" in error


def test_a_slash_at_the_end_is_a_folder_of_frames(tmp_path):
    assert numbered_targets(f"{tmp_path}/v1.5/", 1) == [f"{tmp_path}/v1.5/"]
    assert numbered_targets(f"{tmp_path}/v1.5/", 2) == [f"{tmp_path}/v1.5_{i}/" for i in range(2)]
    assert numbered_targets(f"{tmp_path}/a.mp4", 2) == [f"{tmp_path}/a_{i}.mp4" for i in range(2)]
