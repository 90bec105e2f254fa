"""python -m magicvideo_jax.plan --config=configs/t2v.py:sd15 --topology=v5e:16x16 --config.mesh.fsdp=8

Compiles the training step for TPUs that need not be there (`pip install -r requirements-plan.txt`; minutes), and says
what a chip holds, computes and sends; `--what=sample` does so for the program that makes clips. `--topology=h100:8` is
for GPUs that need not be there (requirements-plan-cuda.txt), and adds kernels, their bytes and an estimate of the time.
`--remat=auto` compiles the step with one kind of rematerialisation after another, until one fits the chip's memory.
`--quick` says what is held before activations, in seconds and without a compiler. `--table` does so for slices of v5e,
v5p and v6e from 8 chips on, and shows what was compiled before.
"""

import sys
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.command_line import parse
from magicvideo_jax.runtime.exit import exit_with

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file, or the name of one of configs/, followed by :PRESET."
)
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Chips and their arrangement: v5e:16x16, v5p:8x8x8, v6e:16x16, h100, h200:8."
)
SLICES = flags.DEFINE_integer(
    "slices", 1, "How many of them, joined by the slower network between slices (or machines)."
)
WHAT = flags.DEFINE_enum("what", "step", ["step", "sample"], "Training, or making clips.")
QUICK = flags.DEFINE_bool("quick", False, "From shapes alone: compile nothing.")
REMAT = flags.DEFINE_enum(
    "remat", None, ["auto"], "Choose the config.model.remat that recomputes least and fits."
)
TABLE = flags.DEFINE_bool("table", False, "Many topologies (or those of --topology=A,B), quickly.")
FSDP = flags.DEFINE_list("fsdp", ["1", "8", "32"], "With --table: sizes of mesh.fsdp.")
CLIPS = flags.DEFINE_list("clips", ["1"], "With --table: examples a chip.")
OUT = flags.DEFINE_string("out", None, "A JSON file to write.")

_TABLE = (
    *("v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"),
    *("v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8"),
    *("v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16"),
)


def main() -> None:
    """Help at once; otherwise plan."""
    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__, flags.FLAGS.module_help(sys.modules[__name__]), sep="\n")
        sys.exit()
    exit_with(plan)


def plan() -> None:
    """Parse, then plan. Errors: what the command line or the config file gets wrong."""
    parse(_check_field)
    if CONFIG.value is None or not (TOPOLOGY.value or TABLE.value):
        raise UserError(
            "give --config=configs/t2v.py:sd15 and --topology=v5e:16x16, or --table (--help says more)"
        )
    if TABLE.value and WHAT.value != "step":
        raise UserError(
            f"--what={WHAT.value}: a table is of steps; give --topology without --table"
        )
    if REMAT.value and (QUICK.value or TABLE.value or WHAT.value != "step"):
        raise UserError(
            "--remat=auto compiles training steps: give it without --quick, --table and --what"
        )
    fsdp, clips = (_numbers(flag) for flag in (FSDP, CLIPS))

    import jax

    jax.config.update("jax_platforms", "cpu")  # whatever this machine has: it computes nothing
    from magicvideo_jax.core.dataclass_dict import to_plain
    from magicvideo_jax.core.files import write_json
    from magicvideo_jax.experiment.config import read_experiment
    from magicvideo_jax.experiment.shapes import fit_to_weights
    from magicvideo_jax.planning.plan_text import plan_lines, plan_table
    from magicvideo_jax.planning.program_plan import compiled_plan, quick_plan, sweep_plans
    from magicvideo_jax.planning.programs import ProgramKind
    from magicvideo_jax.planning.remat_choice import choose_remat
    from magicvideo_jax.planning.topology import parse_topology

    experiment = fit_to_weights(read_experiment(CONFIG.value))
    if TABLE.value:
        names = TOPOLOGY.value.split(",") if TOPOLOGY.value else _TABLE
        plans = list(sweep_plans(experiment, names, fsdp=fsdp, clips=clips))
        text = plan_table(plans)
    else:
        on = parse_topology(str(TOPOLOGY.value), slices=SLICES.value)
        if REMAT.value:
            experiment = choose_remat(experiment, on, report=partial(print, flush=True))
        plans = [
            (quick_plan if QUICK.value else compiled_plan)(experiment, on, ProgramKind(WHAT.value))
        ]
        text = plan_lines(plans[0])
    for line in text:
        print(line)
    if OUT.value:
        write_json(
            Path(OUT.value), [to_plain(one) for one in plans] if TABLE.value else to_plain(plans[0])
        )


def _numbers(flag: "flags.FlagHolder[list[str]]") -> list[int]:
    for text in flag.value:
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"--{flag.name}={','.join(flag.value)}: give whole numbers, like 1,8")
    return [int(text) for text in flag.value]


def _check_field(path: str) -> None:
    from magicvideo_jax.experiment.config import check_field_exists

    check_field_exists(path)


if __name__ == "__main__":
    main()
