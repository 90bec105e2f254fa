"""A lock on a work folder: one run writes there at a time."""

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

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def hold_run_lock(folder: Path) -> Iterator[None]:
    """Lock `folder` for this job until the block, or the process, ends.

    The leader holds `flock` on a file there. NFS has such locks between machines; a file system
    without them is named in one line, and nothing is locked. Errors: `UserError`, in every
    process, names the folder and the job that holds it, or why it cannot be written.
    """
    held: list[int] = []
    try:
        processes.broadcast_from_leader(lambda: held.append(_lock(folder)))
        yield
    finally:
        for file in held:
            os.close(file)


def is_locked(folder: Path) -> bool | None:
    """Whether a run of this machine holds the lock of `folder`; None where another machine wrote it.

    Looks for a process that has the file open and does not ask for the lock, which a run that
    starts at the same moment would be refused.
    """
    try:
        holder = json.loads((folder / LOCK).read_text())
        pid, host = int(holder["pid"]), holder["host"]
        lock = (folder / LOCK).stat()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname():
        return None
    opened = Path(f"/proc/{pid}/fd")
    try:
        return any(_is_file(place, lock) for place in opened.iterdir())
    except PermissionError:  # a process of another user
        return True
    except OSError:  # no such process, or no Linux
        return not Path("/proc/self").exists() and _is_alive(pid)


def _is_file(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:  # closed meanwhile
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _lock(folder: Path) -> int:
    """The descriptor of the locked file, which holds who locked it."""
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except BlockingIOError:
        os.close(file)
        raise UserError(
            f"--workdir={folder}: another run writes there{_holder(folder / LOCK)}; wait for it, stop it, or give "
            "another folder"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            os.close(file)
            raise _unwritable(folder, error) from None
        say(f"{folder}: this file system has no locks: make sure that no second run writes there")
    return file


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"--workdir={folder}: cannot write there: {error.strerror or error}")


def _holder(file: Path) -> str:
    try:
        content = json.loads(file.read_text())
        return f" (process {content['pid']} on {content['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
