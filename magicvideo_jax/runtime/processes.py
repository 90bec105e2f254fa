"""The processes of one job: one on a laptop, one a host on a pod.

Who is who comes from the environment, which the scripts of launch/ set:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   said by hand (launch/local.sh)
    MAGICVIDEO_CLUSTER=auto                                      found by JAX: Cloud TPU, Slurm, Kubernetes, MPI
    JAX_COORDINATOR_PORT                                         then: the coordinator's, and the next is ours
    MAGICVIDEO_START_TIMEOUT                                     seconds to wait for the others, 300 if unsaid
"""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.cluster import ClusterProcess, detect
from magicvideo_jax.runtime.rendezvous import wait_for_all

COORDINATOR, NUMBER, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CLUSTER, TIMEOUT = "MAGICVIDEO_CLUSTER", "MAGICVIDEO_START_TIMEOUT"

_DAY = 86_400
"""Seconds that one may be ready before the others: who dies meanwhile is missed by its heartbeat."""


class _Job:
    process_index, process_count = 0, 1


def join() -> None:
    """To be called before anything asks JAX for a device; alone, it does nothing. Errors: variables that say half of
    it, no cluster where one was said to be, and hosts that do not come in time."""
    if _Job.process_count > 1 or not (os.environ.get(COORDINATOR) or os.environ.get(CLUSTER)):
        return
    # Only now: who is alone and needs no JAX (`prepare --pixels`) does not wait for it.
    import jax

    # JAX's answer to SIGTERM counts steps, and Orbax, which asks it too, counts others: runtime/preemption.py is ours.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = _number(TIMEOUT, default=300)
    said = COORDINATOR if os.environ.get(COORDINATOR) else CLUSTER
    try:
        place = _told() if said == COORDINATOR else _found(timeout)
        wait_for_all(place.coordinator, place.number, place.index, timeout=timeout)
        jax.distributed.initialize(
            place.coordinator,
            place.number,
            place.index,
            place.devices,
            initialization_timeout=timeout,
            shutdown_timeout_seconds=_DAY,
            cluster_detection_method="deactivate",
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{said}={os.environ[said]}: JAX does not find the others: {error}"
        ) from error
    _Job.process_index, _Job.process_count = jax.process_index(), jax.process_count()


def _told() -> ClusterProcess:
    process_count, process_index = _number(NUMBER), _number(INDEX)
    if process_index >= process_count:
        raise UserError(
            f"{INDEX}={process_index}: give a number from 0 to {process_count - 1} ({NUMBER}={process_count})"
        )
    return ClusterProcess(os.environ[COORDINATOR], process_count, process_index)


def _found(timeout: int) -> ClusterProcess:
    if os.environ[CLUSTER] != "auto":
        raise UserError(
            f"{CLUSTER}={os.environ[CLUSTER]}: give auto, or {COORDINATOR}, {NUMBER} and {INDEX} instead"
        )
    place = detect(timeout)
    if place is None:
        raise UserError(
            f"{CLUSTER}=auto: JAX finds no cluster here (Slurm: start with srun; TPU: install jax[tpu]; else: give "
            f"{COORDINATOR}, {NUMBER} and {INDEX})"
        )
    return place


def process_index() -> int:
    """Of this process among those of the job."""
    return _Job.process_index


def process_count() -> int:
    """Of processes."""
    return _Job.process_count


def is_leader() -> bool:
    """Whether this one speaks, and writes what is written once."""
    return process_index() == 0


def barrier(what: str) -> None:
    """Until every process has come here."""
    if process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(what)


def broadcast_from_leader(decide: Callable[[], Any]) -> Any:
    """What the first host decides (JSON), on every host. Its `UserError` is everyone's."""
    if process_count() == 1:
        return decide()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    answer: dict[str, Any] = {}
    if is_leader():
        try:
            answer = {"decided": decide()}
        except UserError as error:
            answer = {"error": str(error)}
    said = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(said))))
    heard = broadcast_one_to_all(np.resize(said, length))
    answer = json.loads(np.asarray(heard).tobytes())
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["decided"]


def any_process_async(so: bool) -> Any:
    """Whether it is so on any host: an array on every device (1 or 0), not waited for. Every host asks as often."""
    import jax

    places, maximum = _over_devices()
    return maximum(
        jax.make_array_from_callback(
            (jax.device_count(),), places, lambda _: np.full(1, so, np.int32)
        )
    )


@cache
def _over_devices() -> tuple[Any, Any]:
    """One number a device, and the program for the greatest of them."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), "device")
    everywhere = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("device")), jax.jit(
        lambda x: x.max(), out_shardings=everywhere
    )


def _number(name: str, *, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise UserError(
            f"{name}={text}: give a whole number ({COORDINATOR}, {NUMBER} and {INDEX} belong together)"
        )
    return int(text)
