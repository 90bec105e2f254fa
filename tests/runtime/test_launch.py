"""The scripts of launch/: what they do at each exit code, and the schemas they are written to."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from magicvideo_jax.core.errors import EXIT_USER_ERROR
from magicvideo_jax.runtime import processes

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SAVED = 75
"""The exit code of a run that was told to end, has saved, and is to be run again."""
SLICE = {"NAME": "mv", "ZONE": "us-west4-a"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_words_says_how_it_is_used(script: Path):
    usage = subprocess.run(["bash", script], check=False, capture_output=True, text=True)
    assert usage.returncode == EXIT_USER_ERROR
    assert "python -m magicvideo_jax.train" in usage.stderr


@pytest.mark.parametrize("number", ["0", "two", "-1", ""])
def test_a_number_of_processes_is_a_number(number):
    command = [LAUNCH / "local.sh", number, "true"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == EXIT_USER_ERROR


DRY = {
    "local.sh": ["2"],
    "slurm.sbatch": [],
    "tpu_vm.sh": ["run"],
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_dry_run_prints_the_command_and_runs_nothing(script: Path, tmp_path):
    """Neither the command nor srun or gcloud, of which there are none."""
    words = ["--dry-run", *DRY[script.name], "touch", str(tmp_path / "ran")]
    environment = {"PATH": "/usr/bin:/bin", "NAME": "mv", "ZONE": "us-west4-a"}
    done = subprocess.run(
        ["bash", script, *words], env=environment, check=True, capture_output=True, text=True
    )
    assert f"touch {tmp_path}/ran" in done.stdout
    assert not any(tmp_path.iterdir())


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


def test_the_scripts_set_the_variables_that_processes_reads():
    contract = (
        {processes.COORDINATOR, processes.COUNT, processes.INDEX},
        {processes.CLUSTER, processes.START_TIMEOUT, "JAX_COORDINATOR_PORT"},
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
    """The Job is checked by Kubernetes' own schemas; those of JobSet are in no package (docs/pods.md)."""
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
