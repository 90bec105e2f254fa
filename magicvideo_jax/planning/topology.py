"""TPU slices by name (`v5e:16x16`): how many chips of which kind, and with libtpu their devices, which nobody need own.

    chip   HBM a chip as sold   as XLA may use it   bfloat16    source
    v5e    16 GB                15.75 GiB           197 TFLOP/s   cloud.google.com/tpu/docs/v5e
    v5p    95 GB                95.74 GiB           459 TFLOP/s   cloud.google.com/tpu/docs/v5p
    v6e    32 GB                31.25 GiB           918 TFLOP/s   cloud.google.com/tpu/docs/v6e

The third column is the limit that libtpu's compiler names when it refuses a program that is too large.
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
    """A kind of chip; each of these is one device."""

    name: str
    hbm: int
    """Bytes that a program may use."""
    axes: int
    """Of its network: sizes in a topology's name."""


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
    """Slices of chips, all alike."""

    name: str
    """Of one slice."""
    chip: Chip
    slices: int
    chips: int
    """In all."""


def parse_topology(name: str, *, slices: int = 1) -> Topology:
    """Errors: a name that says no topology."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match[1]) if match else None
    sizes = [int(size) for size in match[2].split("x")] if match else []
    if chip is None or len(sizes) != chip.axes or 0 in sizes:
        examples = {"v5e": "v5e:16x16", "v5p": "v5p:8x8x8", "v6e": "v6e:16x16"}
        raise UserError(
            f"--topology={name}: give chips and their arrangement, like {', '.join(examples.values())}"
        )
    if slices < 1:
        raise UserError(f"--slices={slices}: give at least 1")
    return Topology(name, chip, slices, slices * math.prod(sizes))


def compile_only_devices(asked: Topology) -> list[Any]:
    """Devices to lower and compile for, and nothing else. Errors: no libtpu; an arrangement that it does not know."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu is not installed: pip install -r requirements-plan.txt, or plan with --quick"
        )
    # The first: no TPU machine is asked who it is. The second: no TPU is touched, so that any number of plans, and a
    # training run, may have the library open.
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
    """libtpu says on stderr that this is no TPU machine, which is the point."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
