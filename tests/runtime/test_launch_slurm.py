"""launch/slurm.sbatch in a real Slurm of one node."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT
from one_node_slurm import absent, ended, slurm
from quick_xla import QUICK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(absent()),
        reason=f"Slurm is not installed: no {', '.join(absent())} (Debian: slurm-wlm)",
    ),
]

FLAGS = {"XLA_FLAGS": QUICK}
TRAIN = (sys.executable, "-m", "magicvideo_jax.train", "--config=tests/tiny_config.py")
# The processes come together; at the first run they wait to be told to end, "save", and ask to be run again.
PREEMPTED = """
import signal, sys, time
from pathlib import Path
from magicvideo_jax.runtime import processes

processes.join()
saved = Path(sys.argv[1]) / f"saved_{processes.process_index()}"
def end(*_):
    time.sleep(2 * processes.process_index())
    saved.touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
if not saved.exists():
    print("ready", flush=True)
    time.sleep(200)
print("went on", processes.process_index(), processes.process_count(), flush=True)
"""


@pytest.fixture
def environment(tmp_path: Path, free_port: int) -> Iterator[dict[str, str]]:
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm", free_port) as environment:
        yield environment | {**FLAGS, "PYTHONPATH": str(ROOT), "LOG": str(tmp_path / "log")}


def submit(environment: dict[str, str], *command: str, options: tuple[str, ...] = ()) -> str:
    """The number of a job of two tasks."""
    one_node = (
        "--nodes=1",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        f"--output={environment['LOG']}",
    )
    words = (
        "sbatch",
        "--parsable",
        *one_node,
        *options,
        str(ROOT / "launch" / "slurm.sbatch"),
        *command,
    )
    return subprocess.run(
        words, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_two_tasks_train_as_one_process_does(environment, tmp_path):
    def losses(workdir: Path) -> list[float]:
        return [
            json.loads(line)["loss"]
            for line in (workdir / "metrics.jsonl").read_text().splitlines()
        ]

    fields = ended(
        environment, submit(environment, *TRAIN, f"--workdir={tmp_path}/two"), within=1800
    )
    log = Path(environment["LOG"]).read_text()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == (
        "COMPLETED",
        "0:0",
        "0",
    ), log
    subprocess.run(
        [*TRAIN, f"--workdir={tmp_path}/one"], check=True, cwd=ROOT, env={**os.environ, **FLAGS}
    )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_job_whose_time_is_up_saves_and_goes_on(environment, tmp_path):
    """Slurm tells the tasks up to a minute early, and holds back a requeued job as long."""
    command = (sys.executable, "-c", PREEMPTED, str(tmp_path))
    job = submit(environment, *command, options=("--time=2", "--signal=TERM@60"))
    fields = ended(environment, job, within=300)
    log = Path(environment["LOG"]).read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), log
    assert (tmp_path / "saved_0").exists()
    assert (tmp_path / "saved_1").exists()
    assert "went on 0 2" in log
    assert "went on 1 2" in log


def test_a_cancelled_job_saves_and_stays_away(environment, tmp_path):
    log = Path(environment["LOG"])
    job = submit(environment, sys.executable, "-c", PREEMPTED, str(tmp_path))
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("ready") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    subprocess.run(["scancel", job], env=environment, check=True)
    fields = ended(environment, job, within=60)
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0"), log.read_text()
    assert (tmp_path / "saved_1").exists()


def test_a_user_s_error_is_not_tried_again(environment):
    fields = ended(environment, submit(environment, *TRAIN, "--workdir=/dev/null/no"), within=300)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "2:0", "0")
