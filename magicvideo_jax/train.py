"""python -m magicvideo_jax.train --config=configs/t2v.py --workdir=DIR

Trains what the config says, previews it, saves it, scores it. The same command again resumes where it stopped.
Exit codes: 0 done; 2 a mistake, named in one line; 75 stopped by SIGTERM, all steps saved: the same command goes on;
130 stopped by Ctrl-C (docs/resume.md).
`--config=FILE:PRESET` picks a preset, `--config.optim.lr=1e-5` overrides a field.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.command_line import parse
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.preemption import EXIT_PREEMPTED, Preempted, PreemptionListener
from magicvideo_jax.runtime.progress import say

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file, or the name of one of configs/, followed by :PRESET."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder that the run writes to, and resumes from."
)

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Help at once; otherwise train, and say how to go on when interrupted."""
    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__, flags.FLAGS.module_help(sys.modules[__name__]), sep="\n")
        sys.exit()
    interrupt = PreemptionListener()
    interrupt.listen()
    try:
        exit_with(lambda: train(interrupt))
    except Preempted as preempted:
        say(str(preempted))
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)


def train(interrupt: PreemptionListener) -> None:
    """Parse, then run. Errors: what the command line or the config file gets wrong; `Preempted`."""
    parse()
    if WORKDIR.value is None or CONFIG.value is None:
        raise UserError("give --config=configs/t2v.py and --workdir=DIR (--help says more)")

    processes.join()
    from magicvideo_jax.experiment.config import read_experiment
    from magicvideo_jax.experiment.run import run

    run(read_experiment(CONFIG.value), Path(WORKDIR.value), interrupt)


if __name__ == "__main__":
    main()
