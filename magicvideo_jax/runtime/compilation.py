"""`jax.jit` with what pays on this machine, and a cache of compiled programs that outlives the process."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.errors import UserError

# XLA:CPU's library of dot kernels also runs convolutions: 1.2 to 3 times as fast, forward and backward
# (docs/benchmarks.md). An option of the compiler and not an XLA flag: it holds for our programs alone.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def jit(function: Callable[..., Any], *, platform: str | None = None, **options: Any) -> Any:
    """`jax.jit` with the compiler options of a platform; none: of the default backend."""
    platform = platform or jax.default_backend()
    return jax.jit(
        function, compiler_options=_CPU_OPTIONS if platform == "cpu" else None, **options
    )


def enable_compilation_cache() -> None:
    """The next process finds what this one compiled: in `JAX_COMPILATION_CACHE_DIR`, or the user's cache folder."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))


def cache_folder() -> Path:
    """Where this user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magicvideo_jax"


def out_of_memory_message(error: Exception) -> str | None:
    """XLA's words where an error says that a program does not fit the memory."""
    _, refused, words = str(error).partition("RESOURCE_EXHAUSTED")
    return (words.strip(": \n") or "out of memory") if refused else None


@contextlib.contextmanager
def out_of_memory_in_one_line(line: Callable[[str], str]) -> Iterator[None]:
    """Want of memory becomes a `UserError`: the line made of the first of XLA's words."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        words = out_of_memory_message(error)
        if words is None:
            raise
        raise UserError(line(words.splitlines()[0])) from None
