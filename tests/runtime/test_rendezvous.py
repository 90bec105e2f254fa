"""Processes that meet, or learn which of them are missing, whatever else connects to the port."""

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.rendezvous import wait_for_all


def meet(port: int, *indices: int, count: int, timeout: float) -> list[str]:
    """What each process hears, as threads: nothing, or who is missing."""

    def one(index: int) -> str:
        try:
            wait_for_all(f"localhost:{port}", count, index, timeout=timeout)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(indices)) as threads:
        return list(threads.map(one, indices))


@pytest.mark.parametrize(("there", "missing"), [((0, 1), "2"), ((1, 2), "0"), ((0,), "1, 2")])
def test_who_is_missing_is_told_to_everyone(free_port, there, missing):
    for message in meet(free_port, *there, count=3, timeout=0.6):
        assert f"of 3: after 0.6 s these are missing: {missing}: check their logs" in message


def strays(port: int, *, until: float) -> None:
    """A scanner that resets its connections, one that hangs up, and numbers of no process of the
    job.
    """
    while time.monotonic() < until:
        for sent in (b"", b"GET / HTTP/1.1", b"0", b"3", b"7", b"-1", None):
            try:
                with socket.create_connection(("localhost", port), timeout=1) as connection:
                    if sent is None:
                        reset = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    else:
                        connection.sendall(sent)
            except OSError:
                time.sleep(0.02)


def test_strange_connections_neither_end_the_wait_nor_count(free_port):
    noise = threading.Thread(
        target=strays, args=(free_port + 1,), kwargs={"until": time.monotonic() + 1}
    )
    noise.start()
    late = threading.Timer(0.8, meet, (free_port, 2), {"count": 3, "timeout": 10.0})
    late.start()
    assert meet(free_port, 0, 1, count=3, timeout=10.0) == ["", ""]
    noise.join()
    late.join()


def test_a_port_that_is_taken_is_named(free_port):
    with socket.create_server(("", free_port + 1)):
        (message,) = meet(free_port, 0, count=2, timeout=1.0)
    assert f"process 0 cannot listen on port {free_port + 1}" in message
