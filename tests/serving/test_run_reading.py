"""Work folders are read while runs write there, break off, start anew, or are deleted."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.files import atomic_write, write_json
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.runtime.run_lock import hold_run_lock, is_locked
from magicvideo_jax.serving.runs.curve_panels import chart, panels_of, smooth
from magicvideo_jax.serving.runs.metric_curves import MOST_POINTS, MetricsReader
from magicvideo_jax.serving.runs.run_list import RunList
from magicvideo_jax.serving.runs.run_reading import RunReader, RunState
from magicvideo_jax.serving.runs.run_text import duration, scores_html, settings_html, status_html


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, "loss": 1.0 / step} | values) + "\n"


def write_run(folder: Path, *, steps: int, done: int) -> RunReader:
    """A run of `steps` steps that has reported every step up to `done`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = to_plain(Experiment())
    config["train"] |= {"steps": steps, "batch_size": 4}
    write_json(folder / "config.json", config)
    lines = (line(step, clips_per_second=8.0) for step in range(1, done + 1))
    (folder / "metrics.jsonl").write_text("".join(lines))
    return RunReader(folder)


def steps_read(reader: MetricsReader) -> list[float]:
    reader.read_on(seconds=60.0)
    curves = reader.curves()
    return curves["loss"].steps.tolist() if curves else []


def test_only_what_is_new_is_read_and_a_half_written_line_waits_for_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert steps_read(reader) == []
    written = line(1) + line(2)
    for end, steps in ((5, []), (len(line(1)), [1]), (len(written) - 1, [1]), (None, [1, 2])):
        path.write_text(written[:end])
        os.utime(path)
        assert steps_read(reader) == steps
    with path.open("a") as file:
        file.write(line(3))
    assert steps_read(reader) == [1, 2, 3]


def test_a_resumed_run_drops_the_lines_after_its_save(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(1, 9))))
    reader = MetricsReader(path)
    assert steps_read(reader)[-1] == 8
    with atomic_write(path) as aside:  # as MetricsLog does
        aside.write_text("".join(map(line, range(1, 5))))
    assert steps_read(reader) == [1, 2, 3, 4]
    with path.open("a") as file:
        file.writelines(map(line, range(5, 20)))
    assert steps_read(reader) == list(range(1, 20))


def test_a_new_run_in_the_place_of_a_deleted_one_is_read_anew(tmp_path):
    """Its file may get the inode of the old one: writing into the old file is that case."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2))
    reader = MetricsReader(path)
    assert steps_read(reader) == [1, 2]
    path.write_text("".join(map(line, range(10, 20))))
    assert steps_read(reader) == list(range(10, 20))


@pytest.mark.parametrize(
    "odd",
    [
        '{"step": 2, "loss": NaN}',
        '{"step": 2, "loss": null}',
        '{"step": 2, "loss": -Infinity}',
        '{"step": 2, "loss": true}',
        '{"step": 2, "loss": "0.1"}',
        '{"step": 2, "loss": [0.1]}',
        '{"step": 2, "loss": 1' + 400 * "0" + "}",
        '{"step": NaN, "loss": 1}',
        '{"loss": 1}',
        '{"step": 2, "loss": 0.',
        "[1, 2]",
        200_000 * "[",
        "2" * 10_000,
        "",
        3_000_000 * "x",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_report_is_passed_over(tmp_path, odd):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + odd + "\n" + line(3))
    assert steps_read(MetricsReader(path)) == [1, 3]
    path.write_bytes(b"\xff\xfe\x00" + path.read_bytes())
    assert steps_read(MetricsReader(path)) == [3]


def test_a_long_curve_keeps_its_ends_its_mean_and_its_extremes_in_bounded_memory(tmp_path):
    path, number = tmp_path / "metrics.jsonl", 100_000
    losses = np.random.default_rng(0).normal(1, 0.1, number).round(4)
    losses[12_345] = 99.0
    path.write_text(
        "".join(f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in enumerate(losses))
    )
    reader, looks, longest = MetricsReader(path), 0, 0.0
    while looks == 0 or reader.unread:
        began = time.monotonic()
        reader.read_on(seconds=0.02)
        longest, looks = max(longest, time.monotonic() - began), looks + 1
    curve = reader.curves()["loss"]
    assert reader.reports == number
    assert looks > 1
    assert longest < 5
    assert MOST_POINTS / 2 <= len(curve.steps) <= MOST_POINTS
    assert (curve.highs.max(), curve.lows.min()) == (99.0, losses.min())
    full = curve.means[:-1]
    np.testing.assert_allclose(full.mean(), losses.mean(), rtol=1e-3)
    (panel,) = panels_of({"run": reader.curves()})
    assert len(chart(panel, is_log=False, smoothing=0.05)) < 300_000


@pytest.mark.parametrize(
    ("done", "is_locked", "is_scored", "state"),
    [
        (0, True, False, RunState.STARTING),
        (4, True, False, RunState.TRAINING),
        (4, True, True, RunState.TRAINING),  # it goes on after its end, to more steps
        (8, True, False, RunState.EVALUATING),
        (8, False, True, RunState.FINISHED),
        (8, False, False, RunState.STOPPED),
        (4, False, True, RunState.STOPPED),
    ],
)
def test_the_state_follows_from_lock_steps_and_scores(
    tmp_path, monkeypatch, done, is_locked, is_scored, state
):
    reader = write_run(tmp_path / "run", steps=8, done=done)
    if is_scored:
        write_json(tmp_path / "run" / "metrics.json", {"caption_accuracy": {"all": 0.5}})
    monkeypatch.setattr(
        "magicvideo_jax.serving.runs.run_reading.is_locked", lambda folder: is_locked
    )
    run = reader.look()
    assert (run.state, run.step, run.steps) == (state, done, 8)
    assert run.seconds_left == ((8 - done) / 2 if state is RunState.TRAINING else None)
    assert state.value in status_html("run", run)


def test_a_run_elsewhere_counts_as_training_while_it_reports(tmp_path):
    reader = write_run(tmp_path, steps=8, done=4)
    (tmp_path / "run.lock").write_text(json.dumps({"pid": 1, "host": "another-machine"}))
    assert reader.look().state is RunState.TRAINING
    os.utime(tmp_path / "metrics.jsonl", (time.time() - 3600,) * 2)
    assert reader.look().state is RunState.STOPPED


def test_a_deleted_folder_keeps_what_was_read_and_may_come_back(tmp_path):
    reader = write_run(tmp_path / "run", steps=8, done=4)
    assert reader.look().state is RunState.STOPPED
    shutil.move(tmp_path / "run", tmp_path / "away")
    gone = reader.look()
    assert (gone.state, gone.step, gone.previews) == (RunState.GONE, 4, ())
    assert reader.preview(4) is None
    shutil.move(tmp_path / "away", tmp_path / "run")
    assert reader.look().state is RunState.STOPPED


def test_the_lock_is_seen_without_being_taken(tmp_path):
    assert is_locked(tmp_path) is False
    with hold_run_lock(tmp_path):
        assert is_locked(tmp_path) is True
    assert is_locked(tmp_path) is False
    program = (
        "import sys; from pathlib import Path; from magicvideo_jax.runtime.run_lock import *\n"
        f"with hold_run_lock(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_locked(tmp_path) is True
        other.kill()
    assert is_locked(tmp_path) is False
    for content in ("", "[]", '{"pid": "x"}', '{"pid": -1, "host": 3}'):
        (tmp_path / "run.lock").write_text(content)
        assert not is_locked(tmp_path)


def test_no_link_leads_out_of_a_work_folder_and_no_pipe_is_waited_for(tmp_path):
    (tmp_path / "secret").write_text('{"train": {"steps": 77}}')
    reader = write_run(tmp_path / "runs" / "run", steps=8, done=4)
    folder = reader.folder
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "metrics.json")
    (folder / "previews").mkdir()
    (folder / "previews" / "step_000004.png").symlink_to(tmp_path / "secret")
    (folder / "requested.json").symlink_to("requested.json")
    run = reader.look()
    assert (run.steps, run.scores, run.changed) == (None, {}, {})
    assert reader.preview(4) is None
    (tmp_path / "runs" / "other").symlink_to(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert RunList([tmp_path / "runs"]).names() == ["run"]


def test_runs_keep_their_places_and_a_browser_names_no_other(tmp_path):
    runs = RunList([tmp_path / "later", tmp_path / "runs"])
    assert runs.names() == []
    write_run(tmp_path / "runs" / "b", steps=8, done=1)
    assert runs.names() == ["b"]
    write_run(tmp_path / "runs" / "a", steps=8, done=1)
    write_run(tmp_path / "later" / "b", steps=8, done=1)
    assert runs.names() == ["runs/b", "later/b", "runs/a"]
    third = runs.reader(2)
    assert third is not None
    assert third.folder == tmp_path / "runs" / "a"
    for place in (3, -1, 10**30, "0", True, 1.0, None, [0], {"a": 1}, "../../etc"):
        assert runs.reader(place) is None


def test_a_chart_is_finite_json_whatever_the_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {"a": 0.0, "b": -1.0, "data_wait_share": 0.5, "loss_by_time/0": 1.0}
    path.write_text(line(1, **values) + line(2, **values) + line(1_000_000, loss=1e300))
    reader = MetricsReader(path)
    reader.read_on(1.0)
    for runs in ({"one": reader.curves()}, {"one": reader.curves(), "<two>": reader.curves()}, {}):
        for panel in panels_of(runs):
            for is_log in (True, False):
                drawn = json.loads(chart(panel, is_log=is_log, smoothing=0.3))
                rows = [row["value"] for layer in drawn["layer"] for row in layer["data"]["values"]]
                is_log_axis = drawn["encoding"]["y"]["scale"].get("type") == "log"
                assert not is_log_axis or all(value > 0 for value in rows)


def test_smoothing_keeps_straight_curves_and_takes_the_mean_of_noise():
    np.testing.assert_array_equal(smooth(np.arange(9.0), 0.0), np.arange(9.0))
    np.testing.assert_allclose(smooth(np.arange(100.0), 0.1)[5:-5], np.arange(5.0, 95.0))
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise, 0.3).std() < 0.2 * noise.std()


def test_texts_show_what_differs_and_escape_what_a_file_holds(tmp_path):
    reader = write_run(tmp_path, steps=8, done=4)
    config = json.loads((tmp_path / "config.json").read_text())
    config["init_from"] = "<script>alert(1)</script>"
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "metrics.json", {"<b>": 0.125, "motion": {"flicker": None}})
    run = reader.look()
    assert set(run.changed) == {"train.steps", "train.batch_size", "init_from"}
    texts = settings_html(run) + scores_html(run) + status_html("<i>", run)
    assert "&lt;script&gt;" in texts
    assert "0.125" in texts
    assert not any(tag in texts for tag in ("<script>", "<b>", "<i>"))


def test_durations_are_said_as_people_say_them():
    said = [duration(seconds) for seconds in (0.0, 99.0, 100.0, 5400.0, 7500.0, 200_000.0)]
    assert said == ["0 s", "99 s", "2 min", "90 min", "2 h 5 min", "2 d 7 h"]
