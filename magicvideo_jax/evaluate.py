"""Metrics of a work folder, as a table and as WORKDIR/metrics.json.

python -m magicvideo_jax.evaluate --workdir=DIR
"""

import argparse

from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """Run `evaluate` with the arguments of the command line."""
    exit_with(lambda: evaluate(_arguments()))


def evaluate(asked: argparse.Namespace) -> None:
    """Compute the metrics of the newest checkpoint on held-out data; print and store them."""
    processes.refuse_several("evaluate")
    # Imported here: JAX takes seconds to import, and help must not wait for it.
    from magicvideo_jax.core.files import check_writable, write_json
    from magicvideo_jax.evaluation.metrics import metrics_table
    from magicvideo_jax.experiment.run import evaluate_run
    from magicvideo_jax.experiment.run_folder import RunFolder

    folder = RunFolder(local_path(asked.workdir, argument="--workdir"))
    check_writable(folder.metrics)  # before minutes of sampling
    metrics = tuple(name for name in asked.metrics.split(",") if name)
    scores = evaluate_run(folder, clips=asked.clips, metrics=metrics)
    for line in metrics_table(scores):
        print(line, flush=True)
    write_json(folder.metrics, scores)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="a work folder of train")
    parser.add_argument(
        "--clips", type=int, help="held-out captions to sample (default: the config's)"
    )
    parser.add_argument(
        "--metrics", default="", help="names, separated by commas (default: the config's)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
