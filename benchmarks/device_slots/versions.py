"""What the device is, and the two rates that bound everything else: of a copy and of a product."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from device_slots.clock import best_seconds
from device_slots.slot import Line, Size, Slot
from device_slots.subject import share_of_peak

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
    "torch",
    "diffusers",
    "flax",
)
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,driver_version,memory.total,clocks.sm",
    "--format=csv,noheader",
)


def versions(size: Size) -> Iterator[Line]:
    """Device, driver and packages."""
    found: Line = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        answer = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=20)
        found["nvidia_smi"] = answer.stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        found["nvidia_smi"] = str(error)
    yield found


def rates(size: Size) -> Iterator[Line]:
    """Bytes read and written by a copy, and FLOPs of a product of random bfloat16 matrices."""
    numbers, side = (2**20, 128) if size is Size.TINY else (2**29, 8192)
    x = jnp.arange(numbers, dtype=jnp.float32)
    seconds = best_seconds(jax.jit(lambda x: x + 1), x)
    yield {"what": "copy", "tb_per_second": round(2 * x.nbytes / seconds / 1e12, 3)}
    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in range(2))
    seconds = best_seconds(jax.jit(jnp.matmul), a, b)
    yield {"what": f"product of side {side}"} | share_of_peak(2 * side**3, seconds)


VERSIONS = Slot("versions", "device, driver, packages", versions, seconds=60, prepares=False)
RATES = Slot("rates", "a copy of 2 GiB, a product of 8192^3", rates, seconds=60, prepares=False)
