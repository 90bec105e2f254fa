"""Jobs of two real processes: however one of them ends, the other ends too, with the same code."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
from checkout import ROOT

START = """
import os, sys, threading, time
from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.runtime import job_end, processes
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.preemption import Preempted, PreemptionListener

job_end._POLL, job_end._GRACE = 0.2, 1.0
listener = PreemptionListener()
listener.listen()
"""


class Ends:
    """What became of the two processes."""

    def __init__(
        self,
        port: int,
        body: str,
        *,
        leader: str = "pass",
        follower: str = "pass",
        before: str = "",
    ):
        """`body` is run by both, joined; `leader` and `follower` are what `mine()` does in
        each.
        """
        program = (
            START
            + before
            + textwrap.dedent(
                f"""
            def mine():
                if processes.is_leader():
                    {leader}
                else:
                    {follower}

            def verb():
                processes.join()
                import jax
                jax.devices()
                {body}

            exit_with(verb)
            """
            )
        )
        began = time.monotonic()
        both = [
            subprocess.Popen(
                [sys.executable, "-c", program],
                env={
                    **os.environ,
                    "XLA_FLAGS": "",
                    "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(index),
                    "MAGICVIDEO_HEARTBEAT_TIMEOUT": "10",
                },
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        self.errors = [process.communicate(timeout=120)[1] for process in both]
        self.codes = [process.returncode for process in both]
        self.seconds = time.monotonic() - began


COLLECTIVE = 'mine(); processes.barrier("never all")'
AT_THE_END = "mine()"
REFUSED = 'raise UserError("config.x=1: give 2")'
THREAD = "threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)"


@pytest.mark.parametrize(
    ("who", "does", "where", "code", "words"),
    [
        ("leader", REFUSED, COLLECTIVE, 2, "error: config.x=1: give 2"),
        ("follower", REFUSED, COLLECTIVE, 2, "error: config.x=1: give 2"),
        ("follower", f"time.sleep(2); {REFUSED}", AT_THE_END, 2, "error: config.x=1: give 2"),
        ("leader", THREAD, COLLECTIVE, 1, "ZeroDivisionError"),
        ("follower", "os.kill(os.getpid(), 15)", COLLECTIVE, 75, "stopped by SIGTERM"),
    ],
)
def test_a_process_that_fails_ends_the_job_with_its_own_code(
    free_port, who, does, where, code, words
):
    """While the other waits for it in a collective, or is done and waits for it at the end."""
    ends = Ends(free_port, where, **{who: does})
    failed = ("leader", "follower").index(who)
    print(ends.errors, ends.codes, ends.seconds)
    assert ends.codes == [code, code], ends.errors
    assert ends.seconds < 30
    assert words in ends.errors[failed]
    assert f"process {failed} of this job ended with exit code {code}" in ends.errors[1 - failed]


def test_a_process_that_dies_without_a_word_ends_the_job_at_the_heartbeat_time_out(free_port):
    ends = Ends(free_port, COLLECTIVE, follower="os.kill(os.getpid(), 9)")
    assert ends.codes[1] == -9
    assert ends.codes[0] != 0
    assert ends.seconds < 30


SHORT = """
from jax._src import distributed
connect = distributed._jax.get_distributed_runtime_client
distributed._jax.get_distributed_runtime_client = lambda *a, **k: connect(*a, **k, shutdown_timeout=1)
"""
"""JAX's own wait at exit, of five minutes, is one second."""


def test_a_process_that_is_done_waits_for_one_that_is_late(free_port):
    """It is later than JAX's wait, which the service checks every five seconds or so."""
    ends = Ends(free_port, "mine()", before=SHORT, follower="time.sleep(8)")
    assert ends.codes == [0, 0], ends.errors


def test_processes_that_leave_at_the_same_step_leave_with_one_code(free_port):
    ends = Ends(free_port, 'mine(); raise Preempted("step 3 is saved")', leader="time.sleep(1)")
    assert ends.codes == [75, 75], ends.errors
    assert [error.count("step 3 is saved") for error in ends.errors] == [1, 0]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ('UserError("give another --out")', 2, "error: give another --out"),
        ('PermissionError(13, "seal.json")', 1, "PermissionError"),
    ],
)
def test_what_the_leader_raises_in_a_decision_is_everyone_s(free_port, error, code, words):
    body = f"processes.broadcast_from_leader(lambda: (_ for _ in ()).throw({error}))"
    ends = Ends(free_port, body)
    assert ends.codes == [code, code], ends.errors
    assert all(words in error for error in ends.errors)
