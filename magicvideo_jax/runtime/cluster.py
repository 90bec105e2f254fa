"""A process's place in its job, as JAX finds it: Open MPI, Slurm, TPUs under GKE, Cloud TPU VMs, Kubernetes.

`jax.distributed.initialize` finds the same, and connects at once. Asked before, the hosts can say who is missing. The
question is private to JAX: so it stands here alone, and tests with the variables of Slurm and GKE watch over it.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterProcess:
    """The first four arguments of `jax.distributed.initialize`."""

    coordinator: str
    """host:port of process 0."""
    number: int
    """Of processes."""
    index: int
    """Of this one."""
    devices: list[int] | None = None
    """Of this machine's those that are this process's, all if `None`: under Slurm and MPI a process has one GPU."""


def detect(timeout: int) -> ClusterProcess | None:
    """`None` where JAX knows no cluster. `JAX_COORDINATOR_PORT` sets the port. Errors: what JAX and its requests raise
    when the cluster does not answer, and `RuntimeError` when the coordinator has no address after `timeout` seconds."""
    from jax._src.clusters import ClusterEnv

    coordinator, number, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout
    )
    if coordinator is None or number is None or index is None:
        return None
    said = os.environ.get("JAX_LOCAL_DEVICE_IDS")  # initialize reads it, if told nothing
    return ClusterProcess(
        coordinator, number, index, None if said or devices is None else list(devices)
    )
