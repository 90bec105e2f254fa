"""Everything that a GPU has to answer, in one command of at most ten minutes.

    python benchmarks/device.py [--only train_12,sample] [--skip profile] [--seconds 570] [--out FILE] [--rehearse]

Slots are measured one at a time, each in a process of its own, after all have been compiled side by side:
`--list` names them. Prints JSON lines as they come. A slot that fails, or needs more than its time, is reported, and
the others go on. Losses of the training variants are compared last. Where torch and diffusers are installed, they are
measured too. `--rehearse` runs every slot in seconds, on CPU and with tiny networks: its times mean nothing.
"""

import argparse
import os
import sys
from pathlib import Path

from device_slots.losses import compare_losses
from device_slots.registry import SLOTS
from device_slots.schedule import measure_all
from device_slots.slot import Lines, Size, Slot, run_in_this_process


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=names, default=(), help="names of slots, with commas")
    parser.add_argument("--skip", type=names, default=())
    parser.add_argument("--seconds", type=float, default=570, help="time for all slots together")
    parser.add_argument("--out", type=Path, help="file that the lines are added to")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--list", action="store_true", help="print the slots and stop")
    parser.add_argument("--slot", type=names, help=argparse.SUPPRESS)  # a child's own slot
    return parser.parse_args(arguments)


def names(text: str) -> tuple[str, ...]:
    """Names of slots. Errors: `ArgumentTypeError` for a name that no slot has."""
    given, known = tuple(text.split(",")), [slot.name for slot in SLOTS]
    if unknown := [name for name in given if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is no slot; there are {', '.join(known)}")
    return given


def chosen(asked: argparse.Namespace) -> list[Slot]:
    return [
        slot
        for slot in SLOTS
        if slot.name not in asked.skip and (not asked.only or slot.name in asked.only)
    ]


def main(arguments: list[str]) -> int:
    asked = parse(arguments)
    size = Size.TINY if asked.rehearse else Size.FULL
    if asked.rehearse:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    if asked.slot:
        (slot,) = (slot for slot in SLOTS if slot.name in asked.slot)
        run_in_this_process(slot, size)
        return 0
    if asked.list:
        print("\n".join(f"{slot.name:<24}{slot.about}" for slot in SLOTS))
        return 0
    command = [sys.executable, __file__, *(["--rehearse"] if asked.rehearse else [])]
    with Lines(asked.out) as lines:
        measure_all(chosen(asked), command, seconds=asked.seconds, lines=lines)
        lines.write(compare_losses(lines.written))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
