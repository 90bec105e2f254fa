"""MagicVideo's claims with numbers (docs/claims.md).

python -m benchmarks.claims flops                             the arithmetic of MagicVideo's network and of VDM's
python -m benchmarks.claims speed [--weights=embedded_video]  whether clips are as fast as their frame rate asks for
python -m benchmarks.claims ablations --workdir=DIR [--jobs=2] [--only=NAME,..] [--steps=600] [--seeds=0,1,2]
python -m benchmarks.claims table --workdir=DIR [..]          the tables of what is finished

`ablations` trains every ablation with every seed, each in the work folder DIR/NAME/SEED, and prints the tables. The
same command again goes on where it was stopped; what is finished is not run again. With --jobs=2, two runs share the
cores.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.preemption import PreemptionListener

if TYPE_CHECKING:
    from benchmarks.claims.one_run import OneRun

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run a command of the command line."""
    asked = _arguments()
    exit_with(lambda: COMMANDS[asked.command](asked))


def ablations(asked: argparse.Namespace) -> None:
    """Make all runs, each in a process. Errors: `UserError` for work folders of other configs, and runs that failed."""
    from benchmarks.claims.side_by_side_runs import Task, run_side_by_side
    from magicvideo_jax.runtime.progress import say

    runs = _runs(asked)
    for one in runs:
        one.check()
    tasks = [
        Task(
            one.name,
            [
                *(sys.executable, "-m", "benchmarks.claims", "run", f"--workdir={one.root}"),
                *(f"--only={one.ablation.name}", f"--seeds={one.seed}", f"--steps={one.steps}"),
            ],
            one.workdir.with_suffix(".log"),
        )
        for one in runs
        if not one.is_finished
    ]
    failed = run_side_by_side(tasks, jobs=asked.jobs, say=say, folder=ROOT)
    table(asked)
    if failed:
        names = ", ".join(task.name for task in failed)
        raise UserError(f"{names}: failed, see {failed[0].log}; the same command tries again")


def run(asked: argparse.Namespace) -> None:
    """Make runs in this process, one after the other: what a process of `ablations` does."""
    preemption = PreemptionListener()
    preemption.listen()
    for one in _runs(asked):
        one.make(preemption)


def table(asked: argparse.Namespace) -> None:
    """Print the tables of what is finished."""
    from benchmarks.claims.table import tables

    for line in tables(_runs(asked)):
        print(line)


def flops(_: argparse.Namespace) -> None:
    """Print the arithmetic of networks and its ratios."""
    from benchmarks.claims.arithmetic import count_all, tables

    for line in tables(count_all()):
        print(line)


def speed(asked: argparse.Namespace) -> None:
    """Print how the speed in clips of weights follows the frame rate."""
    from benchmarks.claims.readings import asked_speed

    for name, value in asked_speed(asked.weights).items():
        print(f"{name:<16} {value:.3f}")


COMMANDS = {"ablations": ablations, "flops": flops, "run": run, "speed": speed, "table": table}


def _runs(asked: argparse.Namespace) -> list["OneRun"]:
    """The runs that are asked for, all ablations with one seed after the other; what only prepares another run is made
    by that. Errors: `UserError` for an unknown name."""
    from benchmarks.claims.ablations import ABLATIONS
    from benchmarks.claims.one_run import OneRun

    names = [one.name for one in ABLATIONS]
    if unknown := [name for name in asked.only if name not in names]:
        raise UserError(f"--only={unknown[0]}: no ablation; there are {', '.join(names)}")
    root = local_path(asked.workdir, argument="--workdir")
    chosen = [
        one for one in ABLATIONS if (one.name in asked.only if asked.only else one.is_reported)
    ]
    return [OneRun(one, seed, root, asked.steps) for seed in asked.seeds for one in chosen]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--workdir", default="", help="folder of all runs")
    parser.add_argument("--weights", default="embedded_video", help="what `speed` measures")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs side by side")
    parser.add_argument("--only", type=lambda text: text.split(","), default=())
    parser.add_argument("--steps", type=_positive, default=600)
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=(0, 1, 2)
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("give at least 1")
    return int(text)


if __name__ == "__main__":
    main()
