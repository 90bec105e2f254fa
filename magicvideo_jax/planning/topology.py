"""Topologies by name: TPU slices such as `v5e:16x16`, GPUs of a machine such as `h100:8`."""

import re

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.planning.chip import Topology
from magicvideo_jax.planning.gpu_chips import GPUS
from magicvideo_jax.planning.tpu_chips import TPUS

CHIPS = {chip.name: chip for chip in (*TPUS, *GPUS)}


def parse_topology(name: str, *, slices: int = 1) -> Topology:
    """Topology by name and number of slices. Errors: `UserError` for an unknown name."""
    match = re.fullmatch(r"(\w+)(?::(\d+(?:x\d+)*))?", name)
    chip = CHIPS.get(match[1]) if match else None
    sizes = tuple(int(size) for size in (match[2] or "1").split("x")) if match else ()
    if chip is None or len(sizes) != chip.axes or 0 in sizes:
        examples = ", ".join(chip.example for chip in CHIPS.values())
        raise UserError(f"--topology={name}: give a chip and its arrangement, like {examples}")
    if slices < 1:
        raise UserError(f"--slices={slices}: give at least 1")
    return Topology(name, chip, slices, sizes)
