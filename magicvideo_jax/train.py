"""python -m magicvideo_jax.train --config=configs/t2v.py --workdir=DIR

Trains the model that the config describes, with previews, checkpoints and metrics at the end. The
same command again resumes where the run stopped.
`--config=FILE:PRESET` picks a preset, `--config.optim.lr=1e-5` overrides a field.

Exit codes (docs/resume.md):
      0  done
      1  a bug, with a traceback
      2  a mistake, named in one line
     75  stopped by SIGTERM, all steps saved: the same command goes on
    130  stopped by Ctrl-C
"""

import sys

from absl import flags
from ml_collections import config_flags

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.command_line import parse
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.preemption import PreemptionListener

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file, or the name of one of configs/, followed by :PRESET."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder that the run writes to, and resumes from."
)


def main() -> None:
    """Print help at once, or train."""
    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__, flags.FLAGS.module_help(sys.modules[__name__]), sep="\n")
        sys.exit()
    preemption = PreemptionListener()
    preemption.listen()
    exit_with(
        lambda: train(preemption),
        interrupted="stopped; the same command goes on from the last checkpoint",
    )


def train(preemption: PreemptionListener) -> None:
    """Parse the command line, then run.

    Errors: `UserError` for all that the command line or the config gets wrong; `Preempted`.
    """
    parse(_check_field)
    if WORKDIR.value is None or CONFIG.value is None:
        raise UserError("give --config=configs/t2v.py and --workdir=DIR (--help says more)")
    workdir = local_path(WORKDIR.value, argument="--workdir")

    processes.join()
    from magicvideo_jax.experiment.config import read_experiment
    from magicvideo_jax.experiment.run import run

    run(read_experiment(CONFIG.value), workdir, preemption)


def _check_field(path: str) -> None:
    from magicvideo_jax.experiment.config import check_field_exists

    check_field_exists(path)


if __name__ == "__main__":
    main()
