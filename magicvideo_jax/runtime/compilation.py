"""`jax.jit` with compiler options by platform, and a cache of compiled programs that outlives the
process.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.progress import say

# XLA:CPU's library of dot kernels also runs convolutions: 1.2 to 3 times as fast, forward and
# backward (docs/benchmarks.md). An option of the compiler and not an XLA flag: it holds for our
# programs alone.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
# Queries, keys and values merged into one product are cut apart by a copy, and concatenated again
# in the backward pass: more bytes than three products read.
_GPU_OPTIONS = {"xla_gpu_dot_merger_threshold_mb": 0}
_OPTIONS: dict[str, dict[str, Any]] = {"cpu": _CPU_OPTIONS, "gpu": _GPU_OPTIONS}


def jit(function: Callable[..., Any], *, platform: str | None = None, **options: Any) -> Any:
    """`jax.jit` with the compiler options of a platform; None is that of the default backend."""
    platform = platform or jax.default_backend()
    return jax.jit(function, compiler_options=_OPTIONS.get(platform), **options)


def enable_compilation_cache() -> None:
    """Keep compiled programs for later processes.

    They are in `JAX_COMPILATION_CACHE_DIR` or the user's cache folder. JAX's key of a program
    holds the features of the CPU: machines may share the folder.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    except OSError as error:
        say(f"compiled programs are not kept: {error.strerror or error}; set XDG_CACHE_HOME")


def cache_folder() -> Path:
    """Folder for what this user's programs can make again: below `XDG_CACHE_HOME`, or `~/.cache`.

    A user without a home (a container's bare number) has a private one in the temporary directory.
    """
    name = "magicvideo_jax"
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / name
    try:
        return Path.home() / ".cache" / name
    except RuntimeError:
        return _private_temporary_folder(name)


def _private_temporary_folder(name: str) -> Path:
    """A folder of this user alone: what others could put there would run as compiled programs."""
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    is_private = folder.is_dir() and not folder.is_symlink() and not status.st_mode & 0o022
    if status.st_uid == os.getuid() and is_private:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


def out_of_memory_message(error: Exception) -> str | None:
    """XLA's message if an error says that a program does not fit the memory, else None."""
    _, refused, message = str(error).partition("RESOURCE_EXHAUSTED")
    return (message.strip(": \n") or "out of memory") if refused else None


@contextlib.contextmanager
def out_of_memory_in_one_line(line: Callable[[str], str]) -> Iterator[None]:
    """Turn XLA's out-of-memory errors into a `UserError`; `line` makes its text of theirs."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        message = out_of_memory_message(error)
        if message is None:
            raise
        raise UserError(line(message.splitlines()[0])) from None
