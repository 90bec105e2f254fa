"""Processes that find one another, and train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from checkout import ROOT
from quick_xla import QUICK
from verbs_in_process import run_main

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.cluster import ClusterProcess, detect

COUNT = """
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with

def meet():
    processes.join()
    import jax
    processes.barrier("here")
    print(processes.process_index(), processes.process_count(), jax.device_count(), processes.is_leader())

exit_with(meet)
"""


def start(script: str = COUNT, **said: object) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        **{name: str(value) for name, value in said.items()},
    }
    command = [sys.executable, "-c", script]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(
    port: int, *indices: int, number: int, timeout: float = 60
) -> "list[subprocess.Popen[str]]":
    return [
        start(
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES=number,
            JAX_PROCESS_ID=index,
            MAGICVIDEO_START_TIMEOUT=timeout,
        )
        for index in indices
    ]


def test_two_processes_are_one_job(free_port):
    said = sorted(
        process.communicate()[0].strip().splitlines()[-1]
        for process in together(free_port, 0, 1, number=2)
    )
    assert said == ["0 2 2 True", "1 2 2 False"]


def test_alone_nothing_is_waited_for():
    assert start().communicate()[0].strip() == "0 1 1 True"


def under_slurm(
    port: int, *indices: int, number: int, timeout: float = 60
) -> "list[subprocess.Popen[str]]":
    """What srun gives the tasks of a step on this machine, and the port of launch/slurm.sbatch."""
    return [
        start(
            MAGICVIDEO_CLUSTER="auto",
            MAGICVIDEO_START_TIMEOUT=timeout,
            JAX_COORDINATOR_PORT=port,
            SLURM_JOB_ID=7,
            SLURM_STEP_NODELIST="localhost",
            SLURM_NTASKS=number,
            SLURM_PROCID=index,
            SLURM_LOCALID=index,
        )
        for index in indices
    ]


def test_a_cluster_is_found(free_port):
    said = sorted(
        process.communicate()[0].strip().splitlines()[-1]
        for process in under_slurm(free_port, 0, 1, number=2)
    )
    assert said == ["0 2 2 True", "1 2 2 False"]


def test_who_is_missing_in_a_cluster_is_named(free_port):
    (process,) = under_slurm(free_port, 1, number=2, timeout=2)
    error = process.communicate()[1].strip().splitlines()[-1]
    assert "process 1 of 2: after 2 s these are missing: 0: check their logs" in error
    assert process.returncode == 2


def test_a_place_in_slurm(monkeypatch):
    """JAX's own detection, private to it: nodes in brackets, the GPU of a task, the port by hand or by the job."""
    said = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[003-004,9],other",
        "SLURM_NTASKS": "6",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert detect(timeout=1) == ClusterProcess(f"node003:{2**16 - 2**12 + 7}", 6, 5, [1])
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "8476")
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    assert detect(timeout=1) == ClusterProcess("node003:8476", 6, 5, None)


def test_a_place_in_gke(monkeypatch):
    """The last of two slices with two hosts each: the variables that GKE gives the pods of launch/gke_jobset.yaml."""
    said = {
        "TPU_WORKER_HOSTNAMES": "host-0,host-1",
        "TPU_WORKER_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "JAX_COORDINATOR_PORT": "8476",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    assert detect(timeout=1) == ClusterProcess("localhost:8476", 4, 3, None)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({processes.CLUSTER: "auto"}, "JAX finds no cluster here"),
        ({processes.CLUSTER: "slurm"}, "MAGICVIDEO_CLUSTER=slurm: give auto"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=two"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2: give a number from 0 to 1",
        ),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID=: give a whole number"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", processes.COORDINATOR: "here"},
            "give host:port",
        ),
        ({processes.HEARTBEAT_TIMEOUT: "9"}, "MAGICVIDEO_HEARTBEAT_TIMEOUT=9: give at least 10"),
        ({processes.START_TIMEOUT: "soon"}, "MAGICVIDEO_START_TIMEOUT=soon: give a whole number"),
    ],
)
def test_half_a_job_is_named(variables, words, monkeypatch):
    if processes.CLUSTER not in variables:
        variables = {processes.COORDINATOR: "localhost:1", **variables}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        processes.join()


def test_verbs_of_one_process_are_refused_where_there_are_several(monkeypatch):
    processes.refuse_several("sample")
    monkeypatch.setenv(processes.CLUSTER, "auto")
    with pytest.raises(UserError, match="MAGICVIDEO_CLUSTER=auto: sample runs in one process"):
        processes.refuse_several("sample")
    monkeypatch.setenv(processes.COUNT, "1")
    processes.refuse_several("sample")


@pytest.mark.parametrize("flag", [False, True])
def test_the_question_between_steps_is_asked_where_implicit_transfers_are_forbidden(flag):
    with jax.transfer_guard("disallow"):
        assert bool(jax.device_get(processes.any_process_async(flag))) is flag


def test_the_first_failure_is_the_job_s():
    script = ROOT / "launch" / "local.sh"
    command = [script, "3", "sh", "-c", "exit $((JAX_PROCESS_ID * 3))"]
    assert subprocess.run(command, check=False).returncode == 3
    assert subprocess.run([script], check=False, capture_output=True).returncode == 2


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("number", "axes", "accumulate"),
    [
        (2, "", 1),
        slow(4, "", 1),
        slow(2, "fsdp=-1", 1),
        slow(2, "frames=-1", 8),
        slow(4, "fsdp=2 frames=2", 4),
    ],
)
def test_processes_train_as_one_does(tmp_path, free_port, one_device, number, axes, accumulate):
    """One clip at a time where processes share a clip. The one is this process."""
    train = [
        "magicvideo_jax.train",
        f"--config={ROOT}/tests/tiny_config.py:spread",
        f"--config.train.accumulate={accumulate}",
    ]

    def losses_and_scores(workdir: Path) -> tuple[list[float], dict]:
        assert (workdir / "previews" / "step_000004.mp4").is_file()
        losses = [
            json.loads(line)["loss"]
            for line in (workdir / "metrics.jsonl").read_text().splitlines()
        ]
        return losses, json.loads((workdir / "metrics.json").read_text())

    launch = [str(ROOT / "launch" / "local.sh"), str(number), sys.executable, "-m"]
    mesh = [f"--config.mesh.{axis}" for axis in (f"data=1 {axes}" if axes else "").split()]
    subprocess.run(
        [*launch, *train, *mesh, f"--workdir={tmp_path}/many"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK, "PORT": str(free_port)},
    )
    run_main([*train, f"--workdir={tmp_path}/one"])
    together, scores = losses_and_scores(tmp_path / "many")
    alone, expected = losses_and_scores(tmp_path / "one")
    assert together == pytest.approx(alone, rel=1e-5)
    for name in ("motion", "held_out_loss"):  # of the clips that each process made its part of
        assert scores[name] == pytest.approx(expected[name], rel=1e-2)
