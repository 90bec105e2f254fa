"""The GPU that programs are traced for: this machine's, or one that is not present."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_absent: ContextVar[str | None] = ContextVar("capability of an absent GPU", default=None)


def compute_capability() -> str | None:
    """Compute capability of the GPU that programs are traced for, such as `9.0`; `0.0` of a GPU
    that has none (AMD), None without a GPU.
    """
    if (absent := _absent.get()) is not None:
        return absent
    if jax.default_backend() != "gpu":
        return None
    return getattr(jax.devices()[0], "compute_capability", "0.0")


def is_traced_for_gpu() -> bool:
    """Whether programs are traced for a GPU, for forms of an operation that are fast there alone."""
    return compute_capability() is not None


@contextlib.contextmanager
def tracing_for_gpu(capability: str) -> Iterator[None]:
    """Trace programs for a GPU of this compute capability, whatever this machine has."""
    token = _absent.set(capability)
    try:
        yield
    finally:
        _absent.reset(token)
