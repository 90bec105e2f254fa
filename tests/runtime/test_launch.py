"""The scripts of launch/: what they would run, what they do at each exit code, and the schemas they are written to."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from magicvideo_jax.core.errors import EXIT_USER_ERROR
from magicvideo_jax.runtime import processes

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SAVED = 75
"""The exit code of a run that was told to end, has saved, and is to be run again."""
SLICE = {"NAME": "mv", "ZONE": "us-west4-a"}


def said(script: str, *words: str, **environment: str) -> list[str]:
    command = ["bash", str(LAUNCH / script), "--dry-run", *words]
    run = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return run.stdout.splitlines()


RUN = (
    "cd magicvideo_jax && . .venv/bin/activate && MAGICVIDEO_CLUSTER=auto JAX_COORDINATOR_PORT=8476 "
    "MAGICVIDEO_START_TIMEOUT=300 python -m x --a=1 >> ../run.log 2>&1"
)


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            "create",
            [
                "gcloud compute tpus queued-resources create mv --node-id=mv --zone=us-west4-a "
                "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
            ],
        ),
        (
            "run python -m x --a=1",
            [f"gcloud compute tpus tpu-vm ssh mv --zone=us-west4-a --worker=all '--command={RUN}'"],
        ),
        (
            "logs 3",
            [
                "gcloud compute tpus tpu-vm ssh mv --zone=us-west4-a --worker=3 '--command=tail -n 100 -F run.log'"
            ],
        ),
        ("status", ["gcloud compute tpus queued-resources describe mv --zone=us-west4-a"]),
        (
            "delete",
            ["gcloud compute tpus queued-resources delete mv --zone=us-west4-a --force --quiet"],
        ),
    ],
)
def test_what_would_run_on_tpu_vms(words, lines):
    assert said("tpu_vm.sh", *words.split(), CREATE="--spot", **SLICE) == lines


def test_what_would_set_tpu_vms_up():
    archive, copy, clean, install = said("tpu_vm.sh", "setup", TMPDIR="/t", **SLICE)
    assert (
        archive == f"git -C {LAUNCH}/.. archive --format=tar.gz --output=/t/magicvideo_jax.tgz HEAD"
    )
    assert (
        copy
        == "gcloud compute tpus tpu-vm scp /t/magicvideo_jax.tgz mv: --zone=us-west4-a --worker=all"
    )
    assert clean == "rm /t/magicvideo_jax.tgz"
    assert install.startswith(
        "gcloud compute tpus tpu-vm ssh mv --zone=us-west4-a --worker=all '--command=mkdir -p"
    )


def test_what_would_run_under_slurm():
    assert said("slurm.sbatch", "python", "-m", "x", SLURM_JOB_ID="70007") == [
        "export MAGICVIDEO_CLUSTER=auto JAX_COORDINATOR_PORT=10014",
        "srun --kill-on-bad-exit=0 --wait=0 python -m x",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_words_says_how_it_is_used(script: Path):
    usage = subprocess.run(["bash", script], check=False, capture_output=True, text=True)
    assert usage.returncode == EXIT_USER_ERROR
    assert "python -m magicvideo_jax.train" in usage.stderr


@pytest.mark.parametrize("number", ["0", "two", "-1", ""])
def test_a_number_of_processes_is_a_number(number):
    command = [LAUNCH / "local.sh", number, "true"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == EXIT_USER_ERROR


GCLOUD = """#!/bin/bash
# Remembers what it is told; `ssh` runs its command here; a state or an exit code is taken from a list, line by line.
echo "$*" >> "$HOME/told"
case "$*" in
    *describe*) sed -n 1p "$HOME/states" && sed -i '2,$!{$!d}' "$HOME/states" ;;
    *magicvideo_jax.tgz*) ;;
    *ssh*) for word; do case $word in --command=*) bash -c "${word#--command=}" ;; esac; done ;;
esac
"""
GIT = """#!/bin/bash
for word; do case $word in --output=*) touch "${word#--output=}" ;; esac; done
"""
TRAIN = """echo "$MAGICVIDEO_CLUSTER $JAX_COORDINATOR_PORT $*" >> ../ran
code=$(sed -n 1p ../codes) && sed -i 1d ../codes && exit "$code"
"""


@pytest.mark.parametrize(
    ("codes", "states", "end", "runs", "created"),
    [
        ([0], ["ACTIVE"], 0, 1, 0),
        ([SAVED, SAVED, 0], ["ACTIVE"], 0, 3, 0),
        ([SAVED, EXIT_USER_ERROR], ["ACTIVE"], EXIT_USER_ERROR, 2, 0),
        ([SAVED, 0], ["SUSPENDED", "PROVISIONING", "PROVISIONING", "ACTIVE"], 0, 2, 1),
        ([255, 0], ["SUSPENDING", "ACTIVE"], 0, 2, 1),
        ([1], ["ACTIVE"], 1, 1, 0),
    ],
)
def test_a_preempted_run_goes_on(tmp_path, codes, states, end, runs, created):
    """tpu_vm.sh with a gcloud that runs on this machine."""
    for name, text in {"gcloud": GCLOUD, "git": GIT, "train": TRAIN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    environment = {
        **os.environ,
        **SLICE,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "POLL": "0",
    }
    (tmp_path / "magicvideo_jax" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "magicvideo_jax" / ".venv" / "bin" / "activate").touch()
    words = ["bash", str(LAUNCH / "tpu_vm.sh"), "run", "bash", "../train", "it's", "a b"]
    assert subprocess.run(words, env=environment, cwd=tmp_path, check=False).returncode == end
    assert (tmp_path / "ran").read_text() == "auto 8476 it's a b\n" * runs
    told = (tmp_path / "told").read_text()
    assert told.count("queued-resources create") == told.count("queued-resources delete") == created


def test_the_environment_is_what_hosts_reads():
    contract = (
        {processes.COORDINATOR, processes.NUMBER, processes.INDEX},
        {processes.CLUSTER, processes.TIMEOUT, "JAX_COORDINATOR_PORT"},
    )
    for path in LAUNCH.iterdir():
        names = set(re.findall(r"\b(?:JAX|MAGICVIDEO)_[A-Z_]+\b", path.read_text()))
        by_hand, found = contract
        assert (
            names == by_hand if path.name == "local.sh" else {processes.CLUSTER} <= names <= found
        ), path.name
    assert set.union(*contract) <= set(
        re.findall(r"`(\w+)`", (ROOT / "docs" / "pods.md").read_text())
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path):
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (requirements-dev.txt)")
    found = subprocess.run([shellcheck, script], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def jobset() -> dict:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (requirements-dev.txt)")
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobs_of_the_jobset_are_valid():
    """By Kubernetes' own schemas. Those of JobSet are in no package: docs/pods.md says how they were checked."""
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for replicated in jobset()["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "x"},
            **replicated["template"],
        }
        for version in ("1.31", "1.34", schemas.latest_version()):
            schemas.validate(job, version, strict=True)
        job["spec"]["podFailurePolicies"] = {}
        with pytest.raises(schemas.ValidationError, match="podFailurePolicies"):
            schemas.validate(job, schemas.latest_version(), strict=True)


def test_the_jobset_tries_again_what_may_succeed():
    spec = jobset()["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    codes = {rule["action"]: rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"]}
    assert codes["FailJob"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [EXIT_USER_ERROR],
    }
    assert codes["Ignore"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [SAVED],
    }
    assert job["backoffLimit"] == 0
    assert job["parallelism"] == job["completions"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
