"""The processes of one job: one on a laptop, one per host on a pod.

The environment says which process this is; the scripts of launch/ set it:

    JAX_COORDINATOR_ADDRESS,        given by hand (launch/local.sh)
    JAX_NUM_PROCESSES, JAX_PROCESS_ID
    MAGICVIDEO_CLUSTER=auto         found by JAX: Cloud TPU, Slurm, Kubernetes, MPI
    JAX_COORDINATOR_PORT            then: the coordinator's port; the next port is used, too
    MAGICVIDEO_START_TIMEOUT        seconds to wait for all processes, default 300
    MAGICVIDEO_HEARTBEAT_TIMEOUT    seconds after which a process that died without a word (power
                                    failure, SIGKILL) ends the others, default 100
"""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.cluster import ClusterProcess, detect
from magicvideo_jax.runtime.job_end import share_failures
from magicvideo_jax.runtime.rendezvous import wait_for_all

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CLUSTER, START_TIMEOUT = "MAGICVIDEO_CLUSTER", "MAGICVIDEO_START_TIMEOUT"
HEARTBEAT_TIMEOUT = "MAGICVIDEO_HEARTBEAT_TIMEOUT"

_SHORTEST_HEARTBEAT = 10
"""Seconds. A process that compiles on a busy machine may be silent for some."""


class _Job:
    process_index, process_count = 0, 1


def join() -> None:
    """Connect this process with the others of its job; in a process that is alone, do nothing.

    Call it before anything asks JAX for a device, in a verb that `exit_with` runs. Errors:
    `UserError` for variables that contradict one another or are half given, for a cluster that JAX
    does not find, and for processes that do not come in time.
    """
    variable = _variable_of_job()
    if _Job.process_count > 1 or variable is None:
        return
    # Imported late: what runs alone and needs no JAX (`prepare --pixels`) does not wait for it.
    import jax

    # JAX's own answer to SIGTERM counts steps, and Orbax, which asks it too, counts others:
    # runtime/preemption.py.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = _number(START_TIMEOUT, default=300)
    heartbeat = _number(HEARTBEAT_TIMEOUT, default=100)
    if heartbeat < _SHORTEST_HEARTBEAT:
        raise UserError(f"{HEARTBEAT_TIMEOUT}={heartbeat}: give at least {_SHORTEST_HEARTBEAT}")
    try:
        place = _given() if variable == COORDINATOR else _found(timeout)
        wait_for_all(
            place.coordinator, place.process_count, place.process_index, timeout=float(timeout)
        )
        jax.distributed.initialize(
            place.coordinator,
            place.process_count,
            place.process_index,
            place.local_device_ids,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
            cluster_detection_method="deactivate",
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{variable}={os.environ[variable]}: JAX cannot connect the processes: {error}"
        ) from error
    _Job.process_index, _Job.process_count = place.process_index, place.process_count
    if place.process_count > 1:
        share_failures(place.process_index)


def refuse_several(verb: str) -> None:
    """`UserError` where the environment makes this one of several processes."""
    variable = _variable_of_job()
    if variable is not None and os.environ.get(COUNT) != "1":
        raise UserError(
            f"{variable}={os.environ[variable]}: {verb} runs in one process: start it on one host, "
            "without this variable"
        )


def _variable_of_job() -> str | None:
    """The environment variable that makes this process part of a job."""
    return next((name for name in (COORDINATOR, CLUSTER) if os.environ.get(name)), None)


def _given() -> ClusterProcess:
    process_count, process_index = _number(COUNT), _number(INDEX)
    if process_index >= process_count:
        raise UserError(
            f"{INDEX}={process_index}: give a number from 0 to {process_count - 1} ({COUNT}={process_count})"
        )
    return ClusterProcess(os.environ[COORDINATOR], process_count, process_index)


def _found(timeout: int) -> ClusterProcess:
    if os.environ[CLUSTER] != "auto":
        raise UserError(
            f"{CLUSTER}={os.environ[CLUSTER]}: give auto, or {COORDINATOR}, {COUNT} and {INDEX} instead"
        )
    place = detect(timeout)
    if place is None:
        raise UserError(
            f"{CLUSTER}=auto: JAX finds no cluster here (Slurm: start with srun; TPU: install jax[tpu]; else: give "
            f"{COORDINATOR}, {COUNT} and {INDEX})"
        )
    return place


def process_index() -> int:
    """Index of this process in its job."""
    return _Job.process_index


def process_count() -> int:
    """Number of processes in the job."""
    return _Job.process_count


def is_leader() -> bool:
    """Whether this is process 0, which prints, and writes what is written once."""
    return process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has come here."""
    if process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)


def broadcast_from_leader(decide: Callable[[], Any]) -> Any:
    """Call `decide` in the leader, and return its answer (JSON) in every process.

    What it raises is raised in every process: a `UserError` as it is, anything else in the others
    as a `RuntimeError` that names it.
    """
    if process_count() == 1:
        return decide()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    message, failure = b"{}", None
    if is_leader():
        try:
            message = json.dumps({"answer": decide()}).encode()
        except Exception as error:
            failure = error
            message = json.dumps(
                {
                    "error": str(error),
                    "type": type(error).__name__,
                    "mendable": isinstance(error, UserError),
                }
            ).encode()
    length = int(broadcast_one_to_all(np.int32(len(message))))
    received = broadcast_one_to_all(np.resize(np.frombuffer(message, np.uint8), length))
    if failure is not None:
        raise failure
    content = json.loads(np.asarray(received).tobytes())
    if "answer" in content:
        return content["answer"]
    if content["mendable"]:
        raise UserError(content["error"])
    raise RuntimeError(f"process 0 failed: {content['type']}: {content['error']}")


def any_process_async(flag: bool) -> Any:
    """Whether `flag` is set in any process, as an array (1 or 0) on every device.

    The array is not waited for. Every process must call this equally often.
    """
    import jax

    one_each, maximum = _maximum_over_devices()
    # One explicit transfer per device: the training loop forbids implicit ones.
    local = [jax.device_put(np.full(1, flag, np.int32), to) for to in jax.local_devices()]
    shape = (jax.device_count(),)
    return maximum(jax.make_array_from_single_device_arrays(shape, one_each, local))


@cache
def _maximum_over_devices() -> tuple[Any, Any]:
    """The sharding of one number per device, and the program for the greatest of them."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), "device")
    return NamedSharding(mesh, PartitionSpec("device")), jax.jit(
        lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
    )


def _number(name: str, *, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit()):
        together = (
            f" ({COORDINATOR}, {COUNT} and {INDEX} belong together)" if default is None else ""
        )
        raise UserError(f"{name}={text}: give a whole number{together}")
    return int(text)
