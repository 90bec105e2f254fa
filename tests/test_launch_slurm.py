"""launch/slurm.sbatch in a real Slurm of one node."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from one_node_slurm import absent, ended, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(absent()), reason=f"Slurm is not installed: no {', '.join(absent())} (Debian: slurm-wlm)"),
]

FLAGS = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
TRAIN = (sys.executable, "-m", "magicvideo_jax.train", "--config=tests/tiny_config.py")
# The processes come together; at the first run they wait to be told to end, "save", and ask to be run again.
PREEMPTED = """
import signal, sys, time
from pathlib import Path
from magicvideo_jax.core import hosts

hosts.join()
saved = Path(sys.argv[1]) / f"saved_{hosts.index()}"
def end(*_):
    time.sleep(2 * hosts.index())
    saved.touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
if not saved.exists():
    time.sleep(200)
print("went on", hosts.index(), hosts.number(), flush=True)
"""


@pytest.fixture
def submit(tmp_path: Path, free_port: int):
    """Runs a command as a job of two tasks, and says how it ended."""

    def submitted(*command: str, options: tuple[str, ...] = ()) -> tuple[dict[str, str], str]:
        one_node = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", f"--output={tmp_path}/log")
        words = ("sbatch", "--parsable", *one_node, *options, str(ROOT / "launch" / "slurm.sbatch"), *command)
        job = subprocess.run(words, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        fields = ended(environment, job.strip(), within=900)
        return fields, (tmp_path / "log").read_text()

    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm", free_port) as environment:
        environment |= {**FLAGS, "PYTHONPATH": str(ROOT)}
        yield submitted


def test_two_tasks_train_as_one_process_does(submit, tmp_path):
    def losses(workdir: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]

    fields, log = submit(*TRAIN, f"--workdir={tmp_path}/two")
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("COMPLETED", "0:0", "0"), log
    subprocess.run([*TRAIN, f"--workdir={tmp_path}/one"], check=True, cwd=ROOT, env={**os.environ, **FLAGS})
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_job_whose_time_is_up_saves_and_goes_on(submit, tmp_path):
    """Slurm tells the tasks up to a minute early, and holds back a requeued job as long."""
    command = (sys.executable, "-c", PREEMPTED, str(tmp_path))
    fields, log = submit(*command, options=("--time=2", "--signal=TERM@60"))
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), log
    assert (tmp_path / "saved_0").exists()
    assert (tmp_path / "saved_1").exists()
    assert "went on 0 2" in log
    assert "went on 1 2" in log


def test_a_user_s_error_is_not_tried_again(submit):
    fields, log = submit(*TRAIN, "--workdir=/dev/null/no")
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "2:0", "0"), log
