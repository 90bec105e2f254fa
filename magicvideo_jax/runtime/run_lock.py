"""One run a work folder."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.progress import say

LOCK = "run.lock"

_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def hold_run_lock(folder: Path) -> Iterator[None]:
    """`folder` is this job's, whose first host holds `flock` on a file in it: the kernel lets go when the process ends,
    however it ends. NFS knows it between machines; where a file system knows no locks one line says so, and nothing is
    held.

    Errors: `UserError`, on every host, names folder and holder where another job has it.
    """
    held: list[int] = []

    def take() -> None:
        try:
            held.append(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir={folder}: another run writes there{_holder(folder / LOCK)}; wait for it, stop it, or give "
                "another folder"
            ) from None
        except OSError as error:
            if not held or error.errno not in _WITHOUT:
                raise UserError(
                    f"--workdir={folder}: cannot write there: {error.strerror or error}"
                ) from None
            say(f"{folder}: no locks on this file system: see that no second run writes there")
            return
        os.ftruncate(held[0], 0)
        os.write(held[0], json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    try:
        processes.broadcast_from_leader(take)
        yield
    finally:
        for file in held:
            os.close(file)


def _holder(file: Path) -> str:
    try:
        said = json.loads(file.read_text())
        return f" (process {said['pid']} on {said['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
