"""TPU topologies by name, such as `v5e:16x16`, and libtpu's compile-only devices for them.

    chip   HBM a chip as sold   as XLA may use it   bfloat16    source
    v5e    16 GB                15.75 GiB           197 TFLOP/s   cloud.google.com/tpu/docs/v5e
    v5p    95 GB                95.74 GiB           459 TFLOP/s   cloud.google.com/tpu/docs/v5p
    v6e    32 GB                31.25 GiB           918 TFLOP/s   cloud.google.com/tpu/docs/v6e

The third column is the limit that libtpu's compiler names when a program is too large.
"""

import contextlib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from magicvideo_jax.core.errors import UserError


@dataclass(frozen=True)
class Chip:
    """A kind of TPU chip, each of which is one JAX device."""

    name: str
    hbm: int
    """Bytes of memory that a program may use."""
    axes: int
    """Number of sizes in the name of a topology."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", hbm=int(15.75 * 2**30), axes=2),
        Chip("v5p", hbm=int(95.74 * 2**30), axes=3),
        Chip("v6e", hbm=int(31.25 * 2**30), axes=2),
    )
}


@dataclass(frozen=True)
class Topology:
    """One or more equal TPU slices."""

    name: str
    """Name of one slice, such as `v5e:16x16`."""
    chip: Chip
    slices: int
    chips: int
    """Total number of chips."""


def parse_topology(name: str, *, slices: int = 1) -> Topology:
    """Topology by name and number of slices. Errors: `UserError` for an unknown name."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match[1]) if match else None
    sizes = [int(size) for size in match[2].split("x")] if match else []
    if chip is None or len(sizes) != chip.axes or 0 in sizes:
        examples = {"v5e": "v5e:16x16", "v5p": "v5p:8x8x8", "v6e": "v6e:16x16"}
        raise UserError(
            f"--topology={name}: give a chip and its arrangement, like {', '.join(examples.values())}"
        )
    if slices < 1:
        raise UserError(f"--slices={slices}: give at least 1")
    return Topology(name, chip, slices, slices * math.prod(sizes))


def compile_only_devices(asked: Topology) -> list[Any]:
    """Devices to lower and compile for, which cannot execute.

    Errors: `UserError` where libtpu is not installed or does not support the arrangement.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu is not installed: pip install -r requirements-plan.txt, or plan with --quick"
        )
    # The first keeps libtpu from asking the metadata server which machine this is. The second
    # allows several processes (other plans, a training run) to have libtpu open, since none of
    # these devices is used.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    several = {"num_slices": asked.slices} if asked.slices > 1 else {}
    try:
        with _quiet():
            return list(topologies.get_topology_desc(asked.name, platform="tpu", **several).devices)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology={asked.name}: libtpu has no such slice: {error}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard stderr, where libtpu reports that this is not a TPU machine, as expected."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
