"""A wait for all processes of a job, before JAX connects them.

JAX ends a process whose partners do not come, and does not say which are missing. Process 0
listens one port above JAX's coordinator; each other process connects and sends its index. When all
have come, or time is up, process 0 answers each with the list of those that are missing.
"""

import contextlib
import json
import socket
import time

from magicvideo_jax.core.errors import UserError

_RETRY = 0.2
"""Seconds between two tries to reach process 0."""
_SILENCE = 5.0
"""Seconds that a connection may be silent before it is dropped."""
_LONGEST = 1 << 20
"""Bytes of an answer."""


def wait_for_all(coordinator: str, count: int, index: int, *, timeout: float) -> None:
    """Return when all `count` processes have come.

    `coordinator` is JAX's host:port. Errors: `UserError`, in every process that came, names those
    that did not within `timeout` seconds.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or int(port) >= 2**16 - 1:
        raise UserError(
            f"the coordinator {coordinator}: give host:port with a port below {2**16 - 1} "
            "(JAX_COORDINATOR_ADDRESS, or JAX_COORDINATOR_PORT where JAX finds the host)"
        )
    deadline = time.monotonic() + timeout
    missing = (
        _collect(int(port) + 1, count, deadline)
        if index == 0
        else _report(host, int(port) + 1, index, deadline)
    )
    if missing:
        raise UserError(
            f"process {index} of {count}: after {timeout:g} s these are missing: {', '.join(map(str, missing))}: check "
            f"their logs, and that they can reach {coordinator} (ports {port} and {int(port) + 1})"
        )


def _collect(port: int, count: int, deadline: float) -> list[int]:
    """Process 0's side: the indices that are missing at the end."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.create_server(("", port), backlog=count))
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {port} ({error.strerror or error}): choose another port for the "
                "coordinator (JAX_COORDINATOR_ADDRESS or JAX_COORDINATOR_PORT)"
            ) from error
        while len(came) < count - 1 and (left := deadline - time.monotonic()) > 0:
            listening.settimeout(left)
            # Scanners and probes connect, too: what they send, or a reset, is no process and ends
            # nothing.
            with contextlib.suppress(OSError, ValueError):
                connection = stack.enter_context(listening.accept()[0])
                connection.settimeout(max(_RETRY, min(left, _SILENCE)))
                index = int(connection.recv(16))
                if 0 < index < count:
                    came[index] = connection
        missing = sorted(set(range(1, count)) - came.keys())
        for connection in came.values():
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(missing).encode())
    return missing


def _report(host: str, port: int, index: int, deadline: float) -> list[int]:
    """Another process's side: the answer of process 0, or that process 0 is missing."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(str(index).encode())
                # Process 0 waits as long as we do, and may have begun later.
                connection.settimeout(2 * left + 5)
                answer = bytearray()
                while len(answer) <= _LONGEST and (piece := connection.recv(4096)):
                    answer += piece
                return [int(one) for one in json.loads(answer)]
        except (OSError, ValueError):
            time.sleep(_RETRY)
    return [0]
