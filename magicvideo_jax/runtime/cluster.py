"""A process's place in its job, as JAX finds it: Open MPI, Slurm, TPUs under GKE, Cloud TPU VMs,
Kubernetes.

`jax.distributed.initialize` finds the same, and connects at once. Found before, the processes can
say which of them is missing. The function is private to JAX: it is called here alone, and tests
with the variables of Slurm and GKE guard it.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterProcess:
    """One process of a job: the first four arguments of `jax.distributed.initialize`."""

    coordinator: str
    """host:port of process 0."""
    process_count: int
    process_index: int
    local_device_ids: list[int] | None = None
    """Local device ids of this process (under Slurm, one GPU); None: all of the machine."""


def detect(timeout: int) -> ClusterProcess | None:
    """This process in the cluster that JAX finds; None where it finds none.

    `JAX_COORDINATOR_PORT` sets the port. Errors: what JAX and its requests raise when the cluster
    does not answer, and `RuntimeError` when the coordinator has no address after `timeout`
    seconds.
    """
    from jax._src.clusters import ClusterEnv

    coordinator, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout
    )
    if coordinator is None or count is None or index is None:
        return None
    by_hand = os.environ.get("JAX_LOCAL_DEVICE_IDS")  # initialize reads it where no ids are given
    return ClusterProcess(
        coordinator, count, index, None if by_hand or devices is None else list(devices)
    )
