"""Whether all processes of a job are there, before JAX is told: it ends a process whose partners do not come, and does
not say who they are.

Process 0 listens one port above JAX's coordinator; the others come and say their number. When all have come, or time is
up, each is told who is missing.
"""

import contextlib
import json
import socket
import time

from magicvideo_jax.core.errors import UserError

_PATIENCE = 0.2
"""Seconds between two tries to reach process 0."""
_LONGEST = 1 << 20
"""Bytes of an answer."""


def wait_for_all(coordinator: str, number: int, index: int, *, timeout: float) -> None:
    """Returns when all `number` processes have come. Errors: `UserError`, in every process that did come, names those
    that did not within `timeout` seconds."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or int(port) >= 2**16 - 1:
        raise UserError(
            f"the coordinator {coordinator}: give host:port with a port below {2**16 - 1} "
            "(JAX_COORDINATOR_ADDRESS, or JAX_COORDINATOR_PORT where JAX finds the host)"
        )
    deadline = time.monotonic() + timeout
    missing = (
        _collect(int(port) + 1, number, deadline)
        if index == 0
        else _report(host, int(port) + 1, index, deadline)
    )
    if missing:
        names = ", ".join(map(str, missing))
        raise UserError(
            f"process {index} of {number}: after {timeout:g} s these are missing: {names}: look at their logs, and at "
            f"the way from them to {coordinator} (ports {port} and {int(port) + 1})"
        )


def _collect(port: int, number: int, deadline: float) -> list[int]:
    """Process 0: who is missing at the end."""
    came: dict[int, socket.socket] = {}
    try:
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("", port), backlog=number))
            while len(came) < number - 1 and (left := deadline - time.monotonic()) > 0:
                listening.settimeout(left)
                with contextlib.suppress(TimeoutError, ValueError):
                    connection = stack.enter_context(listening.accept()[0])
                    connection.settimeout(
                        max(_PATIENCE, min(left, 5))
                    )  # who says nothing keeps nobody waiting
                    came[int(connection.recv(16))] = connection
            missing = sorted(set(range(1, number)) - came.keys())
            for connection in came.values():
                with contextlib.suppress(OSError):
                    connection.sendall(json.dumps(missing).encode())
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} ({error.strerror or error}): give another"
        ) from error
    return missing


def _report(host: str, port: int, index: int, deadline: float) -> list[int]:
    """Another: what process 0 says, or that it is missing."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(str(index).encode())
                # It waits as long as we do, and may have begun later.
                connection.settimeout(2 * left + 5)
                said = bytearray()
                while piece := connection.recv(4096):
                    said += piece
                    if len(said) > _LONGEST:
                        break
                return [int(one) for one in json.loads(said)]
        except (OSError, ValueError):
            time.sleep(_PATIENCE)
    return [0]
