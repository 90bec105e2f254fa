"""metrics.jsonl outlives whatever ends a run, and TensorBoard ends none."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter

from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.training.metrics_log import MetricsLog, read_lines


def write(workdir: Path, *steps: int, first: int = 0, loss: float = 0.5) -> None:
    with closing(MetricsLog(workdir, first=first)) as log:
        for step in steps:
            log.write(step, {"loss": loss})


def lines(workdir: Path) -> list[str]:
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_a_resumed_log_goes_on_behind_the_last_save_in_the_same_form(tmp_path):
    write(tmp_path, 10, 20, 30)
    before = lines(tmp_path)
    write(tmp_path, 30, first=20)
    assert lines(tmp_path) == before


@pytest.mark.parametrize("cut", ['{"step": 40, "lo', "4", "null", "[1]"])
def test_a_line_cut_short_is_left_out(tmp_path, cut):
    write(tmp_path, 10, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(cut)
    write(tmp_path, 30, first=20)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [10, 20, 30]


def test_a_resumption_that_dies_while_it_rewrites_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, 10, 20, 30)
    before = lines(tmp_path)
    with monkeypatch.context() as patch:

        def full(self, *_):
            os.truncate(os.open(self, os.O_CREAT | os.O_WRONLY), 0)
            raise OSError(28, "No space left on device")

        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left"):
            MetricsLog(tmp_path, first=20)
    assert lines(tmp_path) == before


def test_a_metric_that_is_not_finite_is_null(tmp_path):
    write(tmp_path, 10, loss=float("inf"))
    assert json.loads(lines(tmp_path)[0]) == {"step": 10, "loss": None}
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 10}]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be"):
        MetricsLog(tmp_path)


def test_a_full_disk_under_the_log_ends_the_run_in_a_line(tmp_path):
    with closing(MetricsLog(tmp_path)) as log:
        log._file.close()
        log._file = Path("/dev/full").open("w")  # noqa: SIM115
        with pytest.raises(WriteFailed, match=r"metrics\.jsonl cannot be written: No space left"):
            log.write(1, {"loss": 1.0})


def test_a_full_disk_under_tensorboard_is_one_line(tmp_path, monkeypatch, capsys):
    flush, failures = EventsWriter.flush, [OSError(28, "No space left on device")]

    def full_once(self):
        if failures:
            raise failures.pop()
        return flush(self)

    monkeypatch.setattr(EventsWriter, "flush", full_once)
    write(tmp_path, *range(1, 40))
    assert len(lines(tmp_path)) == 39
    assert capsys.readouterr().err == "TensorBoard gets no more metrics: No space left on device\n"


def test_a_file_in_the_place_of_tensorboard_s_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "tensorboard").touch()
    write(tmp_path, 1)
    assert "TensorBoard gets no more metrics: File exists" in capsys.readouterr().err
