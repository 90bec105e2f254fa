"""A Slurm of one node, this machine, for a test: Debian's `slurm-wlm`, no munge, nothing outside a folder."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")

# Two devices that any machine has stand for two GPUs: Slurm counts and hands them out, nobody opens them. A requeued
# job waits until credentials expire: as short as Slurm allows.
SETTINGS = """
ClusterName=one
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
NodeName={host} CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
GPUS = """
AutoDetect=off
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


def absent() -> list[str]:
    """What of Slurm is not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def slurm(folder: Path, port: int) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and `scontrol` speak to it. It has `port` and the next."""
    host = socket.gethostname().split(".")[0]
    said = SETTINGS.format(
        host=host, folder=folder, user=getpass.getuser(), port=port, next_port=port + 1
    )
    (folder / "slurm.conf").write_text(said)
    (folder / "gres.conf").write_text(GPUS)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:
        for daemon in ("slurmctld", "slurmd"):
            command = [daemon, "-D", "-f", str(folder / "slurm.conf")]
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while "State=IDLE" not in scontrol(environment, "show", "node", host):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield environment


def scontrol(environment: dict[str, str], *words: str) -> str:
    """What it prints; nothing while the controller is not up."""
    return subprocess.run(
        ["scontrol", *words], env=environment, capture_output=True, text=True, check=False
    ).stdout


def ended(environment: dict[str, str], job: str, *, within: float) -> dict[str, str]:
    """The fields of a job that has ended."""
    deadline = time.monotonic() + within
    while True:
        fields = dict(
            field.split("=", 1)
            for field in scontrol(environment, "show", "job", job).split()
            if "=" in field
        )
        if fields.get("JobState") in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
            return fields
        assert time.monotonic() < deadline, fields
        time.sleep(0.5)
